# SPDX-License-Identifier: Apache-2.0
"""Both drivers and both Novas in one cloud: what a user waits for.

One Cinder has two backends, each with a share of its own: our driver and
upstream's.  One compute host has the agent and the hooks, the other has
nova-compute as it is released.  Each has a guest; the two take turns, and
only the one whose turn it is writes.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
import os
from pathlib import Path
import statistics
import subprocess
import time

from benchmarks.lab import Lab
from benchmarks.lab import timed
from benchmarks.lab import written
from benchmarks.overhead import Series
from benchmarks.table import mib
from benchmarks.table import ms
from benchmarks.table import Results
from tests.cloud.lab.api import NotFound
from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.project import Project
from tests.cloud.lab.project import WentWrong
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import BACKEND
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings
from tests.functional.lab import audit
from tests.functional.lab import images
from tests.functional.lab import paths
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Writer
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.share import GIB
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Volume

TURNS = int(os.environ.get('ASSISTED_SNAPSHOTS_TURNS', '20'))
#: Of these, so many also with the large volume: it has to be filled anew.
LARGE_TURNS = max(1, TURNS // 4)
UPSTREAM = 'upstream'
DRIVER = 'cinder.volume.drivers.nfs.NfsDriver'
#: Both are asked so often, in seconds; what is measured is not finer.
POLL = 0.02
#: The writer goes around in 16 MiB, where all else was written before.
BLOCKS = 4096
DELAY = 0.002
RECORDS = 50
LARGE = 4
CREATE, MIDDLE, NEWEST, ONLY = (
    'create', 'delete of a middle snapshot', 'delete of the newest snapshot',
    'delete of the only snapshot')
_PIECE = 64 * MIB


@dataclass
class Disk:
    """An attached volume and its writer, which rests between two steps."""

    files: Volume
    writer: Writer
    last: int = 0

    @contextmanager
    def busy(self) -> Iterator[Writer]:
        """Let the guest write."""
        self.writer.start(self.last)
        yield self.writer
        done = self.writer.stop()
        assert done.errors == 0
        self.last = done.acknowledged


@dataclass
class Figures:
    """What one way through the cloud cost.

    :ivar series: of every step.
    :ivar copied: bytes that QEMU wrote during each delete of the large
        volume's snapshot, without those of its guest.
    :ivar grown: by how much the share was fuller meanwhile, at most.
    """

    series: dict[str, Series] = field(default_factory=dict)
    copied: list[int] = field(default_factory=list)
    grown: list[int] = field(default_factory=list)


@dataclass
class Side:
    """One way through the cloud.

    :ivar backend: Cinder's, and the type of its volumes.
    """

    project: Project
    backend: str
    share: Path
    server: Server
    libvirtd: Libvirtd
    figures: Figures = field(default_factory=Figures)

    def copied(self) -> int:
        """Bytes that QEMU has written, but for those of its guest."""
        domain = self.server.domain
        all_ = written(self.libvirtd.guest_pid(domain.name()))
        # Without a disk's name: of all disks.
        return all_ - int(domain.blockStatsFlags('')['wr_bytes'])

    def volume(self, size: int) -> Volume:
        """A volume that nobody uses yet."""
        made = self.project.volume(size, volume_type=self.backend)
        return Volume(self.share, made, 'raw', size * GIB)

    def attach(self, files: Volume) -> Disk:
        """Give the guest a volume."""
        self.server.attach(files.id)
        return Disk(files, self.server.writer(files.id, BLOCKS, DELAY))

    def create(self, disk: Disk) -> str:
        """Take a snapshot."""
        with self.measured(CREATE, disk):
            snapshot = self.project.request_snapshot(disk.files.id)
            self._wait(snapshot, 'available')
        return snapshot

    def delete(self, what: str, disk: Disk, snapshot: str,
               meanwhile: Callable[[], object] = lambda: None) -> None:
        """Delete a snapshot."""
        with self.measured(what, disk):
            self.project.request_deletion(snapshot)
            self._wait(snapshot, None, meanwhile)

    def end(self, disk: Disk) -> None:
        """Detach a volume that had no snapshot left, and remove it."""
        self.server.detach(disk.files.id)
        audit.settled(disk.files)
        self.project.delete_volume(disk.files.id)

    @contextmanager
    def measured(self, what: str, disk: Disk) -> Iterator[None]:
        """Time a step; the longest wait of the guest meanwhile."""
        series = self.figures.series.setdefault(what, Series())
        with disk.busy() as writer:
            writer.write_more(RECORDS)
            writer.reset_gap()
            with timed(series.seconds):
                yield
            series.stalls.append(writer.progress().longest_gap)

    def _wait(self, snapshot: str, status: str | None,
              meanwhile: Callable[[], object] = lambda: None) -> None:
        """Ask until a snapshot has a status, or is gone."""
        path = f'/snapshots/{snapshot}'
        while True:
            meanwhile()
            try:
                found = self.project.api.volume.get(path)['snapshot']
            except NotFound:
                assert status is None
                return
            if found['status'] == status:
                return
            if found['status'] not in ('creating', 'deleting'):
                raise WentWrong('snapshot', found['status'], found)
            time.sleep(POLL)


def measure(_: Lab, results: Results) -> None:
    """Start a cloud, measure, end it."""
    cloud = Cloud(Settings.fresh(
        paths.TMP / 'cloud/benchmarks', released=HOSTS[1:],
        backends={UPSTREAM: {'volume_driver': DRIVER}}))
    cloud.up()
    try:
        sides = both(cloud)
        take_turns(sides)
        for _turn in range(LARGE_TURNS):
            for side in sides:
                merge_large(side)
    finally:
        cloud.down()
    ours, upstream = sides
    report(ours.figures, upstream.figures, results)


def both(cloud: Cloud) -> list[Side]:
    """Ours, then upstream's."""
    sides, project = [], Project(cloud.api)
    for backend, host in zip((BACKEND, UPSTREAM), HOSTS, strict=True):
        project.api.volume.post('/types', {'volume_type': {
            'name': backend,
            'extra_specs': {'volume_backend_name': backend}}})
        server = Server.boot(project, cloud.settings, host)
        libvirtd = cloud.hosts[host].libvirtd
        assert libvirtd is not None
        sides.append(Side(project, backend, cloud.settings.shares[backend],
                          server, libvirtd))
    return sides


def take_turns(sides: list[Side]) -> None:
    """Snapshots come and go above one that stays."""
    disks = [side.attach(side.volume(1)) for side in sides]
    pairs = list(zip(sides, disks, strict=True))
    oldest = [side.project.snapshot(disk.files.id) for side, disk in pairs]
    for _turn in range(TURNS):
        middle = [side.create(disk) for side, disk in pairs]
        newest = [side.create(disk) for side, disk in pairs]
        for what, snapshots in ((MIDDLE, middle), (NEWEST, newest)):
            for (side, disk), snapshot in zip(pairs, snapshots, strict=True):
                side.delete(what, disk, snapshot)
    for (side, disk), snapshot in zip(pairs, oldest, strict=True):
        side.project.delete_snapshot(snapshot)
        audit.active_holds(disk.files, disk.writer.pattern,
                           Bounds(disk.last, disk.last))
        side.end(disk)


def merge_large(side: Side) -> None:
    """Delete the only snapshot of a full volume, little written since."""
    files = side.volume(LARGE)
    images.io(files.path, 'raw', [
        f'write -q -P {17 + at // _PIECE} {at} {_PIECE}'
        for at in range(0, files.size, _PIECE)])
    subprocess.run(['sync', files.path], check=True)
    disk = side.attach(files)
    snapshot = side.project.snapshot(files.id)
    side.server.run('dd if=/dev/urandom bs=1M count=16 oflag=direct of='
                    f'{side.server.device(files.id)}')
    copied, used, most = side.copied(), _used(side.share), [0]
    side.delete(ONLY, disk, snapshot,
                lambda: most.append(_used(side.share) - used))
    side.figures.copied.append(side.copied() - copied)
    side.figures.grown.append(max(most))
    side.end(disk)


def report(ours: Figures, upstream: Figures, results: Results) -> None:
    """Turn the series into rows."""
    for what, mine in ours.series.items():
        _compare(what, mine, upstream.series[what], results)
    here, there = max(ours.copied), min(upstream.copied)
    results.add(f'cloud: bytes copied by that, 16 MiB on {LARGE} GiB',
                mib(here), f'upstream {mib(there)}',
                f'50 times fewer: {there / here:.0f}', there >= 50 * here)
    results.add('cloud: the share grew meanwhile by', mib(max(ours.grown)),
                f'upstream {mib(min(upstream.grown))}')


def _compare(what: str, mine: Series, other: Series, results: Results
             ) -> None:
    promised = what != ONLY
    ratio = _ratio(mine.seconds, other.seconds)
    results.add(f'cloud: {what}', _spread(mine.seconds),
                f'upstream {_spread(other.seconds)}',
                f'at most a third: {ratio:.2f}' if promised else '',
                ratio <= 1 / 3 if promised else None)
    ratio = _ratio(mine.stalls, other.stalls)
    results.add(f'cloud: longest write stall in {what}',
                _spread(mine.stalls), f'upstream {_spread(other.stalls)}',
                f'at most as upstream: {ratio:.2f}', ratio <= 1)


def _ratio(mine: list[float], other: list[float]) -> float:
    return statistics.median(mine) / statistics.median(other)


def _spread(seconds: list[float]) -> str:
    """Median and 95th percentile."""
    if len(seconds) == 1:
        return ms(seconds[0])
    high = statistics.quantiles(seconds, n=20, method='inclusive')[-1]
    return f'{ms(statistics.median(seconds))}, p95 {ms(high)}'


def _used(share: Path) -> int:
    """Bytes that are in use on a share."""
    found = os.statvfs(share)
    return (found.f_blocks - found.f_bfree) * found.f_frsize

