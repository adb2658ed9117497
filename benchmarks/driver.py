# SPDX-License-Identifier: Apache-2.0
"""The Cinder driver against upstream's, on the same share in the same run."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import logging
import os
from pathlib import Path
import shutil
import statistics
import subprocess
import tempfile
from typing import Any

from benchmarks.lab import Lab
from benchmarks.lab import timed
from benchmarks.table import ms
from benchmarks.table import Results
from tests.functional.cinder.lab.world import OURS
from tests.functional.cinder.lab.world import UPSTREAM
from tests.functional.cinder.lab.world import World
from tests.functional.lab import images
from tests.functional.lab import namespace
from tests.functional.lab import paths
from tests.functional.lab.share import GIB
from tests.functional.lab.share import MIB

DEPTH = 40
TURNS = 5
AT_ONCE = 16
SMALL = 64 * MIB
LARGE = 768 * MIB
_PIECE = 64 * MIB

#: Stands before the real qemu-img and counts.
_COUNTER = '#!/bin/sh\necho >>"{log}"\nexec {real} "$@"\n'


def measure(lab: Lab, results: Results) -> None:
    """Measure everything of the driver that needs no guest."""
    logging.getLogger('cinder').setLevel(logging.ERROR)
    with _world() as world:
        deep_chain(world, results)
        at_once(world, results)
        copies(world, results)
    with _reflinks() as folder, _world(folder) as world:
        shared_copies(world, results)


def deep_chain(world: World, results: Results) -> None:
    """Delete a snapshot in the middle of a deep chain."""
    runs, seconds = {}, {}
    for name, driver in (('ours', world.driver),
                         ('upstream', world.upstream)):
        volume = world.volume(driver=driver)
        taken = [world.snapshot(volume, driver=driver)
                 for _ in range(DEPTH)]
        middle = taken[DEPTH // 2 - TURNS // 2:][:TURNS]
        took: list[float] = []
        for snapshot in middle:
            with timed(took):
                world.delete(snapshot, driver=driver)
        seconds[name] = statistics.median(took)
        with _counted(world.folder) as count:
            world.delete(taken[0], driver=driver)
            runs[name] = count()
    results.add(f'qemu-img runs of a delete at depth {DEPTH}',
                str(runs['ours']), f'upstream {runs["upstream"]}',
                'at most a tenth', runs['ours'] * 10 <= runs['upstream'])
    factor = seconds['upstream'] / seconds['ours']
    results.add(f'delete at depth {DEPTH}', ms(seconds['ours']),
                f'upstream {ms(seconds["upstream"])}',
                f'4 times faster: {factor:.1f}', factor >= 4)


def at_once(world: World, results: Results) -> None:
    """Delete snapshots of different volumes, one and many at once.

    The older of two, of qcow2 volumes, so that no format changes: the
    database of a benchmark is SQLite, which takes no writers at once.
    """
    for name, path in (('ours', OURS), ('upstream', UPSTREAM)):
        driver = world.make_driver(path, nfs_qcow2_volumes=True)
        snapshots = []
        for _ in range(AT_ONCE + 1):
            volume = world.volume(driver=driver)
            snapshots.append(world.snapshot(volume, driver=driver))
            world.snapshot(volume, driver=driver)
        took: list[float] = []
        with timed(took):
            driver.delete_snapshot(snapshots.pop())
        with timed(took), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(driver.delete_snapshot, snapshots))
        one, many = took
        ours = name == 'ours'
        results.add(f'{AT_ONCE} deletes at once, {name}', ms(many),
                    f'one {ms(one)}: {many / one:.1f} times',
                    'less than one after the other' if ours else '',
                    many < AT_ONCE * one if ours else None)


def copies(world: World, results: Results) -> None:
    """Volume from snapshot where the share cannot share extents."""
    snapshot, source = _filled(world, LARGE)
    ours: list[float] = []
    upstream: list[float] = []
    plain: list[float] = []
    for _ in range(3):
        with timed(ours):
            made = world.from_snapshot(snapshot)
        world.delete_volume(made)
        with timed(upstream):
            made = world.from_snapshot(snapshot, driver=world.upstream)
        world.delete_volume(made)
        target = world.share / 'copied'
        with timed(plain):
            subprocess.run(['cp', '--sparse=always', source, target],
                           check=True)
            subprocess.run(['sync', target], check=True)
        target.unlink()
    best = [min(times) for times in (ours, upstream, plain)]
    ratio = best[0] / best[2]
    results.add(f'volume of a snapshot, {LARGE // MIB} MiB, copied',
                ms(best[0]), f'cp and sync {ms(best[2])}, upstream '
                             f'{ms(best[1])}',
                f'as one sequential copy: {ratio:.2f}', ratio <= 1.25)


def shared_copies(world: World, results: Results) -> None:
    """Volume from snapshot where the share can share extents."""
    took = {}
    for size in (SMALL, LARGE):
        snapshot, _ = _filled(world, size)
        times: list[float] = []
        for _ in range(TURNS):
            with timed(times):
                world.from_snapshot(snapshot)
        took[size] = statistics.median(times)
    ratio = took[LARGE] / took[SMALL]
    results.add(f'volume of a snapshot, {LARGE // MIB} MiB, shared extents',
                ms(took[LARGE]), f'{SMALL // MIB} MiB: {ms(took[SMALL])}',
                f'constant time: {ratio:.2f}', ratio <= 1.5)


def _filled(world: World, size: int) -> tuple[Any, Path]:
    """A snapshot of a volume with so much data, and the file below it."""
    volume = world.volume()
    path = world.disk(volume).path
    images.io(path, 'raw', [
        f'write -q -P {17 + at // _PIECE} {at} {_PIECE}'
        for at in range(0, size, _PIECE)])
    subprocess.run(['sync', path], check=True)
    return world.snapshot(volume), path


@contextmanager
def _world(folder: Path | None = None) -> Iterator[World]:
    """A Cinder, in a folder of its own unless one is given."""
    if folder is not None:
        world = World(folder)
        try:
            yield world
        finally:
            world.close()
        return
    paths.RUNNING.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.RUNNING) as scratch, \
            _world(Path(scratch, 'cinder')) as world:
        yield world


@contextmanager
def _reflinks() -> Iterator[Path]:
    """A folder on XFS, which shares extents."""
    paths.RUNNING.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.RUNNING) as scratch:
        image, point = Path(scratch, 'image'), Path(scratch, 'mounted')
        point.mkdir()
        with open(image, 'wb') as file:
            file.truncate(8 * GIB)
        subprocess.run(['mkfs.xfs', '-q', '-m', 'reflink=1', image],
                       check=True)
        namespace.mount_image(image, point)
        try:
            yield point / 'cinder'
        finally:
            namespace.unmount(point)


@contextmanager
def _counted(folder: Path) -> Iterator[Callable[[], int]]:
    """Count the runs of qemu-img."""
    real, log, tools = shutil.which('qemu-img'), folder / 'runs', (
        folder / 'counting')
    tools.mkdir(exist_ok=True)
    log.write_text('')
    shim = tools / 'qemu-img'
    shim.write_text(_COUNTER.format(log=log, real=real))
    shim.chmod(0o755)
    path = os.environ['PATH']
    os.environ['PATH'] = f'{tools}:{path}'
    try:
        yield lambda: len(log.read_text().splitlines())
    finally:
        os.environ['PATH'] = path
