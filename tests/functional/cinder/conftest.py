# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the Cinder driver's tests: each test has a Cinder of its own.

The fixtures of guests and agents come from one folder up; both may be used
in one test.
"""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Iterator
import os
from pathlib import Path
import re
import shutil
from typing import TYPE_CHECKING

import oslo_messaging as messaging
import pytest

from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.reports import ReportEndpoint
from tests.functional.lab import paths
from tests.functional.lab.agent import Agent
from tests.functional.lab.database import Database
from tests.functional.lab.rabbit import Rabbit

if TYPE_CHECKING:
    from tests.functional.cinder.lab.backup import BackupService
    from tests.functional.cinder.lab.glance import ImageService
    from tests.functional.cinder.lab.world import World

# The assertions in there say what they compared only if this is known
# before the first import of it.
pytest.register_assert_rewrite('tests.functional.cinder.lab')

_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
        item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say where the files of a failed test are kept."""
    report = yield
    if report.failed and 'cinder_folder' in getattr(item, 'funcargs', {}):
        item.stash[_failed] = True
        report.sections.append(('Cinder', str(_kept(item))))
    return report


def _kept(item: pytest.Item) -> Path:
    where = item.nodeid.removeprefix('tests/')
    return paths.FAILURES / (re.sub(r'[^\w.]+', '-', where)[:120].strip('-')
                             + '-cinder')


@pytest.fixture
def cinder_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of one test's Cinder; kept if the test fails."""
    folder = paths.RUNNING / str(os.getpid()) / 'cinder'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    if request.node.stash.get(_failed, False):
        kept = _kept(request.node)
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(kept)
    else:
        shutil.rmtree(folder)


@pytest.fixture(scope='session')
def database_session() -> Iterator[Database]:
    """The session's MariaDB; tests use :func:`database`."""
    folder = paths.RUNNING / str(os.getpid()) / 'mariadb'
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    server = Database(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope='session')
def migrated(database_session: Database) -> bytes:
    """What Cinder's migrations, which are slow, make of a database."""
    from tests.functional.cinder.lab import deployment
    database_session.create('migrated')
    deployment.migrate(database_session.url('migrated'))
    return database_session.dump('migrated')


@pytest.fixture
def database(database_session: Database, migrated: bytes) -> Iterator[str]:
    """SQLAlchemy's name of a new database of Cinder, on a server."""
    database_session.create('cinder')
    database_session.load('cinder', migrated)
    yield database_session.url('cinder')
    database_session.drop('cinder')


@pytest.fixture
def cinder(cinder_folder: Path) -> Iterator[World]:
    """A Cinder with one share and nothing else."""
    from tests.functional.cinder.lab.world import World
    world = World(cinder_folder)
    yield world
    world.close()


@pytest.fixture
def glance(cinder: World) -> ImageService:
    """An empty Glance."""
    from tests.functional.cinder.lab.glance import ImageService
    return ImageService(cinder.folder / 'glance')


@pytest.fixture
def backups(cinder: World) -> Iterator[BackupService]:
    """Cinder's backup service beside its volume manager."""
    from tests.functional.cinder.lab.backup import BackupService
    from tests.functional.cinder.lab.views import gone
    assert cinder.manager.driver.initialized
    service = BackupService(cinder)
    yield service
    service.close()
    gone(cinder)


@pytest.fixture
def hooks(rabbit: Rabbit, agent: Agent) -> Iterator[str]:
    """Somebody takes the agent's reports; the host's name."""
    way = transport.make(url=rabbit.url)
    server = messaging.get_rpc_server(
        way, target.report(agent.host),
        [ReportEndpoint(lambda job: None)])
    server.start()
    yield agent.host
    server.stop()
    server.wait()
    way.cleanup()
