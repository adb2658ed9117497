# SPDX-License-Identifier: Apache-2.0
"""One agent serves all tests that do not need one of their own."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.lab import guest_image
from tests.functional.lab.agent import Agent
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.stage import Stage
from tests.functional.ops.ground import Ground

#: How often the agent looks at running jobs: soon, to see them in flight.
POLL = 0.2


@pytest.fixture(scope='package')
def shared_agent(libvirtd_session: Libvirtd, rabbit_session: Rabbit,
                 image: guest_image.GuestImage) -> Iterator[Agent]:
    """An agent that runs; nobody may stop or reconfigure it."""
    stage = Stage(libvirtd_session, 'functional-ops-agent')
    agent = stage.agent(rabbit_session, poll_interval=POLL)
    agent.start()
    yield agent
    stage.close()


@pytest.fixture
def ground(stage: Stage, shared_agent: Agent) -> Iterator[Ground]:
    """What a test stands on; everything is proved at its end."""
    ground = Ground(stage, shared_agent)
    mark = shared_agent.log.stat().st_size
    yield ground
    with open(shared_agent.log, 'rb') as log:
        log.seek(mark)
        (stage.folder / 'shared-agent.log').write_bytes(log.read())


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function
                       ) -> Generator[None, Any, Any]:
    """A test of this package ends with the proof of all it has touched."""
    result = yield
    ground = pyfuncitem.funcargs.get('ground')
    if isinstance(ground, Ground):
        ground.settle()
    return result
