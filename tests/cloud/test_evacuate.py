# SPDX-License-Identifier: Apache-2.0
"""A compute host dies with all that runs on it, and a server is evacuated.

Nobody of the dead host can be asked; what is on the share has to tell on
which layer the guest was.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
import signal
from typing import Any

import pytest

from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.held import HeldJobs
from tests.cloud.lab.hosts import ComputeHost
from tests.cloud.lab.project import Project
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.stage import BLOCKS
from tests.cloud.lab.stage import DELAY
from tests.cloud.lab.stage import Stage
from tests.functional.lab import share
from tests.functional.lab import waiting

#: Services complain of what died.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.logs('')]
DYING, ALIVE = HOSTS[1], HOSTS[0]
#: Of what is surely done once the host is there again.
_SURELY = 240


@pytest.fixture
def doomed(settings: Settings, project: Project) -> Iterator[Stage]:
    """A volume that a server on the host that will die writes to."""
    server = Server.boot(project, settings, DYING)
    volume = project.volume()
    server.attach(volume)
    writer = server.writer(volume, BLOCKS, DELAY)
    writer.start()
    files = share.Volume(settings.share, volume, 'raw', share.GIB)
    stage = Stage(settings, project, server, files, writer)
    yield stage
    stage.finish()
    project.delete_server(server.id)
    for snapshot in [*stage.snapshots]:
        project.delete_snapshot(snapshot)
    project.delete_volume(volume)


@pytest.fixture
def host(cloud: Cloud, doomed: Stage) -> Iterator[ComputeHost]:
    """The host that dies; it is there again afterwards."""
    found = cloud.hosts[DYING]
    yield found
    if service_of(doomed.project)['forced_down']:
        revive(found, doomed.project)


def die(host: ComputeHost, stage: Stage) -> None:
    """Kill all that a host is, and tell Nova so, as who fences it does."""
    assert host.libvirtd is not None
    qemu = host.libvirtd.guest_pid(stage.server.domain.name())
    for service in host.services:
        service.kill()
    host.libvirtd.kill()
    os.kill(qemu, signal.SIGKILL)
    waiting.until(lambda: not os.path.exists(f'/proc/{qemu}'),
                  'the end of QEMU', 10)
    forced_down(stage.project, is_down=True)


def revive(host: ComputeHost, project: Project) -> None:
    """Start it again; Nova removes there what it has elsewhere now."""
    assert host.libvirtd is not None
    host.libvirtd.start()
    for service in host.services:
        service.start()
    waiting.until(lambda: set(evacuations(project)) == {'completed'},
                  'nova-compute removing what has been evacuated', _SURELY,
                  0.5)
    forced_down(project, is_down=False)
    waiting.until(lambda: service_of(project)['state'] == 'up',
                  'nova-compute being back', _SURELY, 0.5)
    assert host.libvirtd.connection.listAllDomains() == []


def evacuations(project: Project) -> list[str]:
    """Their states; a nova-compute that starts completes those of its own."""
    return [str(one['status']) for one in project.api.compute.get(
        f'/os-migrations?migration_type=evacuation&source_compute={DYING}')[
            'migrations']]


def service_of(project: Project) -> dict[str, Any]:
    """Nova's record of the nova-compute that dies."""
    (found,) = project.api.compute.get(
        f'/os-services?binary=nova-compute&host={DYING}')['services']
    return dict(found)


def forced_down(project: Project, *, is_down: bool) -> None:
    """Say that a host is down, or may be up."""
    project.api.compute.put(f'/os-services/{service_of(project)["id"]}',
                            {'forced_down': is_down})


def evacuate(stage: Stage, last: int) -> None:
    """Have the server elsewhere; its guest finds all that was written."""
    server = stage.server
    stage.project.act(server.id, 'SHUTOFF', evacuate={'host': ALIVE})
    server.moved(ALIVE)
    server.start()
    stage.go_on(last)


def test_at_rest(doomed: Stage, host: ComputeHost) -> None:
    oldest, newest = doomed.take(), doomed.take()
    doomed.writer.write_more(1)
    last = doomed.stop()
    die(host, doomed)
    evacuate(doomed, last)
    doomed.settled()
    doomed.delete(newest)
    revive(host, doomed.project)
    doomed.settled()
    doomed.take()
    doomed.delete(oldest)


@pytest.mark.cloud('hooks')
def test_in_the_midst_of_a_deletion(held: HeldJobs, doomed: Stage,
                                    host: ComputeHost) -> None:
    """It ends without the host, whose agent goes on with nothing."""
    oldest = doomed.take()
    doomed.take()
    held.delete(doomed, oldest, DYING)
    last = doomed.stop()
    die(host, doomed)
    evacuate(doomed, last)
    revive(host, doomed.project)
    held.release()
    doomed.writer.write_more(1)

    def status() -> str:
        known = doomed.project.api.volume.get(
            f'/snapshots/detail?volume_id={doomed.id}')['snapshots']
        return str(next((one['status'] for one in known
                         if one['id'] == oldest), 'gone'))
    ended = waiting.until(lambda: status() != 'deleting' and status(),
                          'an end of the deletion', _SURELY, 0.5)
    if ended == 'available':
        doomed.settled()
        doomed.delete(oldest)
    else:
        doomed.gone(oldest)
    doomed.take()
