# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests in a real OpenStack.

Every test runs in a cloud with our hooks and in one whose Nova is as it is
released, unless it is marked ``cloud('hooks')`` or ``cloud('released')``;
one cloud of each kind serves the whole session.  It is the session's own,
unless ``CLOUD_FOLDER`` names one that ``tools/cloud up`` started; then
pytest has to run in it, by ``tools/cloud shell``.  The logs of a cloud stay
until the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path

import pytest

from tests.cloud.lab import logs
from tests.cloud.lab import process
from tests.cloud.lab.api import Api
from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.held import HeldJobs
from tests.cloud.lab.project import Project
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.stage import BLOCKS
from tests.cloud.lab.stage import DELAY
from tests.cloud.lab.stage import Stage
from tests.functional.lab import paths
from tests.functional.lab import share

KINDS = ('hooks', 'released')
GIVEN = os.environ.get('CLOUD_FOLDER')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in every kind of cloud that its mark names."""
    if 'kind' in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker('cloud')
        kinds = list(mark.args if mark else KINDS)
        if GIVEN:
            given = KINDS[not Settings.load(Path(GIVEN)).assisted]
            kinds = [kind for kind in kinds if kind == given]
        metafunc.parametrize('kind', kinds, indirect=True, scope='session')


@pytest.fixture(scope='session')
def kind(request: pytest.FixtureRequest) -> str:
    """What the cloud's Nova is."""
    return str(request.param)


@pytest.fixture(scope='session')
def own_cloud(kind: str) -> Iterator[Cloud | None]:
    """The session's cloud, running; None if another has been named."""
    if GIVEN:
        yield None
        return
    folder = paths.TMP / f'cloud/tests-{kind}'
    assisted = kind == 'hooks'
    # Nobody has to wait for agents that are not there.
    cinder = {} if assisted else {'assisted_agent': 'never'}
    # One host of each kind; guests migrate from one to the other.
    cloud = Cloud(Settings.fresh(folder, assisted=assisted, cinder=cinder,
                                 eventlet=HOSTS[1:]), print)
    cloud.up()
    yield cloud
    cloud.down()
    left = [path.name for path in folder.iterdir()]
    assert left == ['log'], 'the cloud left more than its logs'
    assert not process.marked(folder), 'the cloud left processes'


@pytest.fixture(scope='session')
def cloud(own_cloud: Cloud | None) -> Cloud:
    """A cloud whose parts may be broken."""
    assert own_cloud is not None, 'not in a cloud that CLOUD_FOLDER names'
    return own_cloud


@pytest.fixture(scope='session')
def settings(own_cloud: Cloud | None) -> Settings:
    """A cloud that runs."""
    if own_cloud is None:
        return Settings.load(Path(str(GIVEN)))
    return own_cloud.settings


@pytest.fixture(scope='session')
def project(settings: Settings) -> Project:
    """A user of the cloud, with every right."""
    return Project(Api(settings))


@pytest.fixture(scope='session')
def server(settings: Settings, project: Project) -> Iterator[Server]:
    """A server that runs on the first host; tests leave it so."""
    server = Server.boot(project, settings, HOSTS[0])
    yield server
    project.delete_server(server.id)


@pytest.fixture
def stage(settings: Settings, project: Project, server: Server
          ) -> Iterator[Stage]:
    """An attached volume whose guest writes; afterwards nothing is left."""
    volume = project.volume()
    files = share.Volume(settings.share, volume, 'raw', share.GIB)
    with _staged(settings, project, server, files) as stage:
        yield stage


@pytest.fixture
def encrypted(settings: Settings, project: Project, server: Server
              ) -> Iterator[Stage]:
    """The same of a volume with encryption."""
    volume = project.volume(volume_type=project.encrypted_type())
    files = share.Volume(settings.share, volume, 'qcow2', share.GIB,
                         settings.key.encode())
    with _staged(settings, project, server, files) as stage:
        yield stage


@pytest.fixture
def held(settings: Settings) -> Iterator[HeldJobs]:
    """Merges end when the test says so."""
    held = HeldJobs(settings)
    yield held
    held.release()


@contextlib.contextmanager
def _staged(settings: Settings, project: Project, server: Server,
            files: share.Volume) -> Iterator[Stage]:
    server.attach(files.id)
    writer = server.writer(files.id, BLOCKS, DELAY)
    writer.start()
    stage = Stage(settings, project, server, files, writer)
    yield stage
    stage.finish()
    for snapshot in [*stage.snapshots]:
        project.delete_snapshot(snapshot)
    project.delete_volume(files.id)
    left = {path.name for path in settings.share.iterdir()}
    assert left == {'lost+found'}


@pytest.fixture(autouse=True)
def quiet_logs(settings: Settings, request: pytest.FixtureRequest
               ) -> Iterator[None]:
    """No service logs an error that the test does not expect.

    ``@pytest.mark.logs('text', ...)`` names what may be in such lines.
    """
    expected = [text for mark in request.node.iter_markers('logs')
                for text in mark.args]
    before = logs.sizes(settings)
    yield
    unexpected = logs.errors(settings, before, expected)
    assert not unexpected, '\n'.join(unexpected)
