# SPDX-License-Identifier: Apache-2.0
"""A guest is started on a volume that is just being worked on.

Nobody told of it.  Either it is kept from starting, or what it writes is
there afterwards, and no snapshot has it.
"""

from __future__ import annotations

from collections.abc import Callable
import fcntl
from pathlib import Path
import struct
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


STEPS = ['pull', 'commit', 'check the survivor', 'flush the survivor',
         'journal settle', 'write .info', 'end the operation',
         'unlink volume-1', 'unlink volume-1.s1', 're-point the child']


@pytest.mark.parametrize('kind, subject', [
    ('qcow2', 's1'), ('qcow2', 's2'), ('qcow2', 's3'), ('qcow2', ''),
    ('raw', 's1'), ('raw', ''), ('luks', 's1'), ('luks', '')])
def test_a_shut_off_guest_cannot_start_on_what_is_worked_on(
        tmp_path: Path, kind: str, subject: str) -> None:
    disk = Disk(tmp_path, kind)
    disk.make()
    for number in (1, 2, 3):
        disk.write((0, 9 * CLUSTER // number, number))
        disk.take(f's{number}')
    before = disk.operations().state().chain.names
    refused: list[str] = []

    def observe(step: str) -> None:
        if step in STEPS:
            done = subprocess.run(
                ['qemu-io', '-f', 'qcow2', '-c', 'quit', before[-1]],
                cwd=tmp_path, check=False, capture_output=True, text=True)
            assert 'lock' in done.stderr
            refused.append(step)

    operations = disk.operations(observer=observe, keep_active=True)
    if subject:
        operations.delete(subject)
        del disk.snapshots[subject]
    else:
        operations.flatten(delete_snapshots=True)
        disk.snapshots.clear()
    assert len(refused) >= 5
    assert disk.operations().state().chain.active.name == before[-1]
    disk.verify()


def test_a_guest_that_is_started_first_has_the_intent_withdrawn(
        disk: Disk) -> None:
    disk.operations().create('s2')
    disk.snapshots['s2'] = bytes(disk.now)
    with disk.files.path('volume-1.s2').open('rb') as held:
        def open_it() -> None:
            fcntl.fcntl(held, fcntl.F_OFD_SETLK, struct.pack(
                'hhqqi4x', fcntl.F_RDLCK, 0, 100, 1, 0))
        for keep in (False, True):
            with pytest.raises(errors.VolumeInUse, match='volume-1.s2'):
                disk.operations(keep_active=keep, observer=at(
                    'write the intent', open_it)).delete('s2')
            assert disk.operations().recover() == []
    disk.verify()


def test_no_snapshot_under_a_shut_off_guest(disk: Disk) -> None:
    with pytest.raises(errors.VolumeInUse, match='shut off'):
        disk.operations(keep_active=True).create('s2')
    assert disk.operations().recover() == []
    disk.verify()


def test_a_pull_of_encrypted_layers_that_only_a_guest_could_do(
        tmp_path: Path) -> None:
    disk = Disk(tmp_path, 'luks')
    disk.make()
    disk.take('s1')
    disk.take('s2')
    with pytest.raises(errors.NoDirection, match='start the guest'):
        disk.operations(keep_active=True).delete('s2')
    assert disk.operations().recover() == []
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
