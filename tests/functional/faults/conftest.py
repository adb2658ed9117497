# SPDX-License-Identifier: Apache-2.0
"""Every test has an agent of its own, which it may kill.

A test of this package ends with the proof of all it has touched.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from typing import Any

import pytest

from tests.functional.faults.scene import Scene
from tests.functional.lab.agent import Agent
from tests.functional.lab.stage import Stage


@pytest.fixture
def scene(stage: Stage, make_agent: Callable[..., Agent],
          monkeypatch: pytest.MonkeyPatch) -> Scene:
    """What a test stands on; its agent runs."""
    # An answer that died with its agent is missed sooner.
    monkeypatch.setattr('assisted_snapshots.rpcapi.guest._WAIT', 0.5)
    agent = make_agent(poll_interval=0.2)
    agent.start()
    return Scene(stage, agent)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function
                       ) -> Generator[None, Any, Any]:
    """Prove everything when the test itself has passed."""
    result = yield
    scene = pyfuncitem.funcargs.get('scene')
    if isinstance(scene, Scene):
        scene.settle()
    return result
