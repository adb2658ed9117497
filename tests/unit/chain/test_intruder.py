# SPDX-License-Identifier: Apache-2.0
"""A guest is started on a volume that is just being worked on.

Nobody told of it.  Either it is kept from starting, or what it writes is
there afterwards, and no snapshot has it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import subprocess

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.operations import Operations
from tests.images import CLUSTER
from tests.images import Disk


class Died(BaseException):
    """The process that ran the operation is no more."""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    disk = Disk(tmp_path, 'qcow2')
    disk.make()
    disk.write((0, 8 * CLUSTER, 1))
    disk.take('s1')
    disk.write((0, CLUSTER, 2))
    return disk


def start(disk: Disk, layer: str) -> None:
    """Have a guest boot from a layer, write to it, and end, if it can."""
    done = subprocess.run(
        ['qemu-io', '-f', disk.formats.get(layer, 'qcow2'), '-c',
         f'write -P 9 {CLUSTER} {CLUSTER}', layer], capture_output=True,
        cwd=disk.files.folder, check=False)
    if done.returncode == 0:
        disk.now[CLUSTER:2 * CLUSTER] = b'\x09' * CLUSTER


def at(step: str, act: Callable[[], None]) -> Callable[[str], None]:
    """Return an observer that acts once, before a step."""
    done: list[str] = []

    def observe(now: str) -> None:
        if now == step and not done:
            done.append(now)
            act()

    return observe


def attempt(work: Callable[[], object], *again: Callable[[], object]) -> None:
    """Do something that may be refused, and is repeated then."""
    try:
        work()
    except errors.VolumeInUse:
        for other in again:
            other()


def intruded(disk: Disk, layer: str, step: str) -> Operations:
    return disk.operations(observer=at(step, lambda: start(disk, layer)))


def test_revert(disk: Disk) -> None:
    disk.operations().create('s2')
    disk.snapshots['s2'] = bytes(disk.now)
    top = disk.files.overlay('s2')
    intruded(disk, top, 'put it in place').revert('s2')
    disk.verify()


@pytest.mark.parametrize('step', ['make the overlay', 'write .info'])
def test_create(disk: Disk, step: str) -> None:
    wanted = bytes(disk.now)
    intruded(disk, disk.files.overlay('s1'), step).create('s2')
    disk.snapshots['s2'] = wanted
    disk.verify()


@pytest.mark.parametrize('step', [
    'flush the survivor', 'prove the copy', 'journal settle', 'write .info'])
def test_delete_of_the_newest(disk: Disk, step: str) -> None:
    top = disk.files.overlay('s1')
    attempt(lambda: intruded(disk, top, step).delete('s1'),
            lambda: disk.operations().delete('s1'))
    del disk.snapshots['s1']
    disk.verify()


def test_between_a_crash_and_the_recovery(disk: Disk) -> None:
    """.info still says that the overlay is the active layer."""
    def die() -> None:
        raise Died

    with pytest.raises(Died):
        disk.operations(observer=at('write .info', die)).delete('s1')
    start(disk, disk.files.overlay('s1'))
    disk.operations().recover()
    del disk.snapshots['s1']
    disk.verify()
