# SPDX-License-Identifier: Apache-2.0
"""Two real cinder-volume processes of one cluster, and how one is killed.

They share a database server, a broker, lock files and the share.  Requests
go to the cluster's queue, as Cinder's API sends them, so either may get one.
A tool that a service starts can be held: QEMU's is then slow, as on a share
that is, and who started it is known.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
from typing import Any

from cinder import exception
from cinder import objects
from cinder import quota
from cinder.volume import rpcapi

from tests.functional.cinder.lab import deployment
from tests.functional.cinder.lab.process import Joined
from tests.functional.cinder.lab.process import SECTION
from tests.functional.cinder.lab.world import OURS
from tests.functional.lab import waiting

CLUSTER = f'cluster@{SECTION}'
#: Seconds without a report until a service counts as down.
DOWN = 4

_COMMON = '''
[DEFAULT]
transport_url = {url}
enabled_backends = {section}
cluster = cluster
report_interval = 1
service_down_time = {down}
periodic_interval = 2
periodic_fuzzy_delay = 0
debug = true
'''

# Who started a tool that is held is its parent: what lies between has
# replaced itself.
_TOOL = '''\
#!/bin/sh
if [ -e {folder}/hold-$1 ]; then
    echo $PPID > {folder}/held-$$
    while [ -e {folder}/hold-$1 ] && [ -e {folder}/held-$$ ]; do
        sleep 0.05
    done
    rm -f {folder}/held-$$
fi
exec {tool} "$@"
'''


class Service:
    """One cinder-volume."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.host = f'{name}@{SECTION}'
        self.log = folder / f'{name}.log'
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / f'{name}.conf'
        self._config.write_text(f'[DEFAULT]\nhost = {name}\n')

    def start(self) -> None:
        """Start it; it is there when it reports."""
        path = f'{self._folder}/bin:{os.environ["PATH"]}'
        with open(self.log, 'ab') as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name('cinder-volume'),
                 '--config-file', self._folder / 'cinder.conf',
                 '--config-file', self._config],
                env=os.environ | {'PATH': path}, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True)

    def kill(self) -> None:
        """SIGKILL it with all that it has started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def has(self, pid: int) -> bool:
        """Whether a process is of this service."""
        return (self._process is not None
                and os.getsid(pid) == self._process.pid)


class Pair:
    """Two services, and a client of both."""

    def __init__(self, folder: Path, url: str, database: str) -> None:
        self.folder = folder
        deployment.build(folder, database=database)
        with open(folder / 'cinder.conf', 'a') as file:
            file.write(_COMMON.format(url=url, section=SECTION, down=DOWN))
        deployment.add_backend(
            folder, SECTION, volume_driver=OURS, assisted_recovery_interval=1,
            assisted_agent='always', nfs_qcow2_volumes=True,
            nas_secure_file_operations=True,
            nas_secure_file_permissions=True)
        self._tool()
        self.world = Joined(folder)
        self.api = rpcapi.VolumeAPI
        self.services = [Service(folder, name) for name in ('one', 'two')]
        # The first count is that of the rows there are, so begin with none.
        self.count(1)
        self.count(-1)

    def start(self) -> None:
        """Start both."""
        for service in self.services:
            service.start()
        waiting.until(self._up, 'both services', 120)

    def close(self) -> None:
        """End everything."""
        for service in self.services:
            service.kill()
        self.world.close()
        deployment.unmount(self.folder)

    # Requests, as Cinder's API makes them --------------------------------

    def volume(self, byte: int = 0x11) -> Any:
        """A new volume with a pattern."""
        row = self.world.row(host=self.services[0].host + '#' + SECTION,
                             cluster_name=f'{CLUSTER}#{SECTION}')
        self.send_volume(row)
        self.wait(row, 'available')
        self.world.write(row, byte)
        return self.world.fresh(row)

    def send_volume(self, row: Any) -> None:
        """Request a volume of its row."""
        spec = objects.RequestSpec.from_primitives({
            'volume_id': row.id, 'snapshot_id': row.snapshot_id})
        row.create_worker()
        self.api().create_volume(self.world.context, row, spec, {},
                                 allow_reschedule=False)

    def send_snapshot(self, volume: Any) -> Any:
        """Request a snapshot; its row."""
        row = self.world.snapshot_row(self.world.fresh(volume))
        self.count(1)
        row.create_worker()
        self.api().create_snapshot(self.world.context, volume, row)
        return row

    def snapshot(self, volume: Any, byte: int = 0) -> Any:
        """A snapshot, and a pattern after it."""
        row = self.send_snapshot(volume)
        self.wait(row, 'available')
        if byte:
            self.world.write(volume, byte)
        return self.world.fresh(row)

    def send_deletion(self, snapshot: Any) -> None:
        """Request the deletion of a snapshot."""
        row = self.world.fresh(snapshot)
        row.status = 'deleting'
        row.save()
        self.api().delete_snapshot(self.world.context, row)

    def count(self, snapshots: int) -> None:
        """Count snapshots in."""
        quota.QUOTAS.commit(
            self.world.admin, quota.QUOTAS.reserve(
                self.world.admin, project_id='project',
                snapshots=snapshots, gigabytes=snapshots),
            project_id='project')

    # What becomes of them -------------------------------------------------

    def status(self, row: Any) -> str:
        """Status of a row; ``gone`` if there is none."""
        try:
            return str(self.world.fresh(row).status)
        except exception.NotFound:
            return 'gone'

    def wait(self, row: Any, *statuses: str, seconds: float = 60) -> str:
        """Wait until a row has one of these."""
        def reached() -> str | None:
            now = self.status(row)
            return now if now in statuses else None
        return waiting.until(
            reached, f'{type(row).__name__} {row.id}: '
                     f'{" or ".join(statuses)}', seconds, 0.1)

    # Tools that are held ----------------------------------------------------

    def hold(self, command: str) -> None:
        """Hold qemu-img's command from now on."""
        (self.folder / f'hold-{command}').touch()

    def release(self) -> None:
        """Let all go on."""
        for file in self.folder.glob('hold-*'):
            file.unlink()

    def step(self) -> None:
        """Let those go on that are held now."""
        for file in self.folder.glob('held-*'):
            file.unlink()

    def held(self) -> list[Service]:
        """Services that wait for a tool."""
        pids = [file.read_text() for file in self.folder.glob('held-*')]
        return [service for pid in pids if pid for service in self.services
                if service.has(int(pid))]

    def until_held(self, count: int = 1) -> list[Service]:
        """Wait for so many held tools; who started them."""
        def enough() -> list[Service] | None:
            found = self.held()
            return found if len(found) >= count else None
        return waiting.until(enough, f'{count} held tools', 60, 0.05)

    def kill(self, service: Service) -> Service:
        """Kill one; the other."""
        service.kill()
        self.step()
        return next(one for one in self.services if one is not service)

    def _up(self) -> bool:
        names = {service.host for service in objects.ServiceList.get_all(
            self.world.admin, {'binary': 'cinder-volume'})
            if service.is_up and service.report_count}
        return names >= {service.host for service in self.services}

    def _tool(self) -> None:
        tool = self.folder / 'bin' / 'qemu-img'
        tool.parent.mkdir()
        tool.write_text(_TOOL.format(folder=self.folder,
                                     tool=shutil.which('qemu-img')))
        tool.chmod(0o755)
