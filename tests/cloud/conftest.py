# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests in a real OpenStack.

One cloud serves the whole session.  It is the session's own, unless
``CLOUD_FOLDER`` names one that ``tools/cloud up`` started; then pytest has
to run in it, by ``tools/cloud shell``.  The logs of a cloud stay until the
next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import os
from pathlib import Path

import libvirt
import pytest

from tests.cloud.lab import logs
from tests.cloud.lab import process
from tests.cloud.lab.api import Api
from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.project import Project
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings
from tests.functional.lab import paths

FOLDER = paths.TMP / 'cloud/tests'


@dataclass(frozen=True)
class Connected:
    """A libvirtd that somebody else started."""

    connection: libvirt.virConnect
    pid: int = 1


@pytest.fixture(scope='session')
def settings() -> Iterator[Settings]:
    """A cloud that runs."""
    given = os.environ.get('CLOUD_FOLDER')
    if given:
        yield Settings.load(Path(given))
        return
    # Nobody has to wait for agents that are not there.
    cloud = Cloud(Settings.fresh(FOLDER, cinder={'assisted_agent': 'never'}),
                  print)
    cloud.up()
    yield cloud.settings
    cloud.down()
    left = [path.name for path in FOLDER.iterdir()]
    assert left == ['log'], 'the cloud left more than its logs'
    assert not process.marked(FOLDER), 'the cloud left processes'


@pytest.fixture(scope='session')
def project(settings: Settings) -> Project:
    """A user of the cloud, with every right."""
    return Project(Api(settings))


@pytest.fixture(scope='session')
def server(settings: Settings, project: Project) -> Iterator[Server]:
    """A server that runs on the first host; tests leave it so."""
    made = project.server('guest', HOSTS[0])
    uri = f'qemu+unix:///system?socket={settings.found[HOSTS[0]]}'
    server = Server(project, settings, Connected(libvirt.open(uri)), made)
    server.wait_ready()
    yield server
    project.delete_server(made)


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
