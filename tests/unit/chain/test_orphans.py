# SPDX-License-Identifier: Apache-2.0
"""An overlay that was made, but never became a snapshot's."""

from __future__ import annotations

import fcntl
from pathlib import Path
import struct

import pytest

from assisted_snapshots.chain import errors
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import KIB
from tests.images import tool


@pytest.fixture(params=['raw', 'qcow2'])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """A volume with three snapshots."""
    disk = Disk(tmp_path / 'share', request.param)
    disk.files.folder.mkdir()
    disk.make()
    for number in (1, 2, 3):
        disk.write((number * CLUSTER, CLUSTER, number))
        disk.take(f's{number}')
    disk.write((4 * KIB, 4 * KIB, 5))
    return disk


def snapshot(disk: Disk) -> dict[str, bytes]:
    """Return every file there is, but for the lock."""
    return {path.name: path.read_bytes()
            for path in disk.files.folder.iterdir()
            if path != disk.files.lock}


@pytest.fixture
def orphan(disk: Disk) -> Path:
    return lay(disk, 'volume-1.s4', 'volume-1.s3')


def lay(disk: Disk, name: str, below: str) -> Path:
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', below, '-F',
         'qcow2', name, cwd=disk.files.folder)
    return disk.files.folder / name


def test_removed_on_proof(disk: Disk, orphan: Path) -> None:
    with pytest.raises(errors.Disagreement):
        disk.operations().state()
    assert disk.operations().remove_orphan('s4')
    assert not disk.operations().remove_orphan('s4')
    disk.verify()


@pytest.mark.parametrize('below', ['volume-1.s1', 'volume-1.s3'])
def test_what_is_below_it_too_is_no_loss(disk: Disk, below: str) -> None:
    orphan = lay(disk, 'volume-1.s4', below)
    shown = disk.content(below)[4 * KIB]
    tool('qemu-io', '-f', 'qcow2', '-c', f'write -P {shown} 4k 4k',
         orphan.name, cwd=disk.files.folder)
    assert disk.content(orphan.name) == disk.content(below)
    assert disk.operations().remove_orphan('s4')
    disk.verify()


def test_data_of_its_own_are_kept(disk: Disk, orphan: Path) -> None:
    tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 99 0 512',
         orphan.name, cwd=disk.files.folder)
    before = snapshot(disk)
    with pytest.raises(errors.Disagreement, match='nowhere else'):
        disk.operations().remove_orphan('s4')
    assert snapshot(disk) == before


def test_what_something_lies_on_is_kept(disk: Disk, orphan: Path) -> None:
    lay(disk, 'volume-1.s5', orphan.name)
    before = snapshot(disk)
    with pytest.raises(errors.Disagreement, match='s5 lies on'):
        disk.operations().remove_orphan('s4')
    assert snapshot(disk) == before


def test_what_cannot_be_read_is_kept(disk: Disk, orphan: Path) -> None:
    orphan.write_bytes(b'what is this?')
    with pytest.raises(errors.Disagreement, match='cannot be read'):
        disk.operations().remove_orphan('s4')
    orphan.write_bytes(b'')
    assert disk.operations().remove_orphan('s4')
    disk.verify()


def test_what_somebody_has_open_is_kept(disk: Disk, orphan: Path) -> None:
    with orphan.open('rb') as held:
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, struct.pack(
            'hhqqi4x', fcntl.F_RDLCK, 0, 100, 1, 0))
        with pytest.raises(errors.VolumeInUse):
            disk.operations().remove_orphan('s4')
    assert orphan.exists()


@pytest.mark.parametrize('name', ['s1', 's3'])
def test_no_layer_of_the_chain(disk: Disk, name: str) -> None:
    with pytest.raises(errors.SnapshotExists):
        disk.operations().remove_orphan(name)
    disk.verify()


def test_no_layer_under_another_name(disk: Disk) -> None:
    disk.write((0, 10 * CLUSTER, 7))
    disk.operations().delete('s3')
    del disk.snapshots['s3']
    with pytest.raises(errors.SnapshotExists):
        disk.operations().remove_orphan('s3')
    disk.verify()
