# SPDX-License-Identifier: Apache-2.0
"""Volumes in use, with the agent: real driver, real guest, real bus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.inuse import InUse
from tests.functional.cinder.lab.world import World
from tests.functional.lab.agent import Agent
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.stage import Stage

MIB = 1 << 20
BOTH = pytest.mark.parametrize('cow', [False, True], ids=['raw', 'qcow2'])


@pytest.fixture
def scene(cinder: World, stage: Stage, agent: Agent, rabbit: Rabbit
          ) -> Callable[..., list[InUse]]:
    """Boots a guest that writes on volumes of the driver."""
    def make(count: int = 1, **options: Any) -> list[InUse]:
        driver = cinder.make_driver(**{
            'assisted_agent': 'always',
            'assisted_agent_transport_url': rabbit.url, **options})
        return boot(cinder, stage, driver, agent.host,
                    *(cinder.volume(driver=driver) for _ in range(count)))
    return make


@pytest.fixture
def one(scene: Callable[..., list[InUse]]) -> InUse:
    """A guest with one raw volume."""
    return scene()[0]


@BOTH
def test_life(scene: Callable[..., list[InUse]], cow: bool) -> None:
    one = scene(nfs_qcow2_volumes=cow)[0]
    oldest, middle, newest = (one.take() for _ in range(3))
    one.check()
    for snapshot in (middle, newest, oldest):
        one.delete(snapshot)
        one.check()
        one.snapshots_hold()
    assert one.world.fresh(one.volume).admin_metadata is not None
    one.prove()
