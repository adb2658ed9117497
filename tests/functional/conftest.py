# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the functional tests.

Servers live as long as the session; a test that ended one finds it running
again in the next.  Shares, guests and agents live as long as their test.
What a failed test leaves is under .tmp/failures/<test>/, and the report
says so.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
import re

from oslo_service import backend
import pytest

from tests.functional.lab import guest_image
from tests.functional.lab import paths
from tests.functional.lab.agent import Agent
from tests.functional.lab.guest import Guest
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.share import Share
from tests.functional.lab.share import SmallShare
from tests.functional.lab.stage import Stage

# The tests' own RPC clients run on native threads, whatever is installed.
backend.register_backend_default_hook(lambda: backend.BackendType.THREADING)

# Two packages prove with these; the assertions say what they compared only
# if this is known before the first of them imports one.
pytest.register_assert_rewrite('tests.functional.ops.ground',
                               'tests.functional.faults.scene')

_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
        item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect evidence while everything still stands."""
    report = yield
    stage = getattr(item, 'funcargs', {}).get('stage')
    if (report.failed and isinstance(stage, Stage)
            and call.when != 'teardown'):
        item.stash[_failed] = True
        stage.collect()
        report.sections.append(('evidence',
                                str(paths.FAILURES / stage.name)))
    return report


@pytest.fixture(scope='session')
def image() -> guest_image.GuestImage:
    """The guest's kernel and root file system."""
    return guest_image.build()


@pytest.fixture(scope='session')
def libvirtd_session() -> Iterator[Libvirtd]:
    """The session's libvirtd; tests use :func:`libvirtd`."""
    daemon = Libvirtd()
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope='session')
def rabbit_session() -> Iterator[Rabbit]:
    """The session's RabbitMQ; tests use :func:`rabbit`."""
    server = Rabbit()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def libvirtd(libvirtd_session: Libvirtd) -> Libvirtd:
    """A libvirtd that runs."""
    if not libvirtd_session.running:
        libvirtd_session.start()
    return libvirtd_session


@pytest.fixture
def rabbit(rabbit_session: Rabbit) -> Rabbit:
    """A RabbitMQ that runs."""
    if not rabbit_session.running:
        rabbit_session.start()
    return rabbit_session


@pytest.fixture
def stage(request: pytest.FixtureRequest, libvirtd: Libvirtd,
          image: guest_image.GuestImage) -> Iterator[Stage]:
    """Everything a test may start, and its end."""
    where = request.node.nodeid.removeprefix('tests/')
    stage = Stage(libvirtd, re.sub(r'[^\w.]+', '-', where)[:120].strip('-'))
    yield stage
    if not libvirtd.running:
        libvirtd.start()
    stage.close(keep=request.node.stash.get(_failed, False))


@pytest.fixture
def share(stage: Stage) -> Share:
    """A share."""
    return stage.share()


@pytest.fixture
def small_share(stage: Stage) -> Callable[[int], SmallShare]:
    """Makes a share of so many bytes, which can run full."""
    return stage.small_share


@pytest.fixture
def guest(stage: Stage) -> Callable[..., Guest]:
    """Makes a guest with the given volumes; not started."""
    return stage.guest


@pytest.fixture
def make_agent(stage: Stage, rabbit: Rabbit) -> Callable[..., Agent]:
    """Makes an agent with the given options; not started."""
    def make(host: str = '', **options: object) -> Agent:
        return stage.agent(rabbit, host, **options)
    return make


@pytest.fixture
def agent(make_agent: Callable[..., Agent]) -> Agent:
    """An agent that runs, with the default options."""
    started = make_agent()
    started.start()
    return started
