# SPDX-License-Identifier: Apache-2.0
"""What a prepared overlay, a disk and a host must be like."""

from __future__ import annotations

from pathlib import Path
import subprocess

import pytest

from assisted_snapshots.agent import preflight
from assisted_snapshots.agent.xml import Disk
from assisted_snapshots.agent.xml import DiskLayer
from assisted_snapshots.agent.xml import Domain
from assisted_snapshots.rpcapi import errors


def tool(folder: Path, *argv: str) -> None:
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A raw volume of 4 MiB; ``v.s1`` is a good overlay for it."""
    tool(tmp_path, 'qemu-img', 'create', '-f', 'raw', 'v', '4M')
    tool(tmp_path, 'qemu-img', 'create', '-f', 'qcow2', '-b', 'v', '-F',
         'raw', 'v.s1')
    return Disk('vda', 'a', 'file', (DiskLayer(f'{tmp_path}/v', 'raw', '1'),))


def refusal(disk: Disk, name: str = 'v.s1') -> str:
    with pytest.raises(errors.BadOverlay) as caught:
        preflight.check_overlay(disk, disk.layers, name)
    assert name in str(caught.value)
    return str(caught.value)


def made(disk: Disk, *argv: str) -> None:
    """Make the overlay anew, unlike it should be."""
    Path(disk.folder, 'v.s1').unlink()
    tool(Path(disk.folder), 'qemu-img', 'create', '-f', 'qcow2', *argv)


def test_good_overlay(disk: Disk) -> None:
    preflight.check_overlay(disk, disk.layers, 'v.s1')


@pytest.mark.parametrize('command', ['write 1M 64k', 'write -z 1M 64k'])
def test_not_empty(disk: Disk, command: str) -> None:
    """The guest would see what it never wrote."""
    tool(Path(disk.folder), 'qemu-io', '-c', command, 'v.s1')
    assert 'holds data already' in refusal(disk)


def test_missing(disk: Disk) -> None:
    assert 'is not there' in refusal(disk, 'v.s2')


def test_symlink(disk: Disk) -> None:
    Path(disk.folder, 'v.s2').symlink_to('v.s1')
    assert 'symbolic link' in refusal(disk, 'v.s2')


def test_no_qcow2(disk: Disk) -> None:
    Path(disk.folder, 'v.s1').write_bytes(bytes(65536))
    assert 'not qcow2' in refusal(disk)


def test_folder(disk: Disk) -> None:
    Path(disk.folder, 'v.s2').mkdir()
    assert 'no regular file' in refusal(disk, 'v.s2')


def test_child_of_another_layer(disk: Disk) -> None:
    tool(Path(disk.folder), 'qemu-img', 'create', '-f', 'raw', 'w', '4M')
    made(disk, '-b', 'w', '-F', 'raw', 'v.s1')
    assert 'lies on w, not on v' in refusal(disk)


def test_child_of_nothing(disk: Disk) -> None:
    made(disk, 'v.s1', '4M')
    assert 'lies on None' in refusal(disk)


def test_absolute_backing_name(disk: Disk) -> None:
    made(disk, '-b', f'{disk.folder}/v', '-F', 'raw', 'v.s1')
    assert 'slash' in refusal(disk)


def test_other_format_pinned(disk: Disk) -> None:
    made(disk, '-u', '-b', 'v', '-F', 'qcow2', 'v.s1', '4M')
    assert 'pins qcow2 for v' in refusal(disk)


@pytest.mark.parametrize('size', ['2M', '8M'])
def test_other_size(disk: Disk, size: str) -> None:
    made(disk, '-b', 'v', '-F', 'raw', 'v.s1', size)
    assert '4194304' in refusal(disk)


@pytest.mark.slow
def test_encrypted_over_plain(disk: Disk) -> None:
    made(disk, '-u', '-b', 'v', '-F', 'raw', '--object',
         'secret,id=s,data=secret', '-o', 'encrypt.format=luks,'
         'encrypt.key-secret=s,encrypt.iter-time=10', 'v.s1', '4M')
    assert 'encrypted, unlike v' in refusal(disk)


def test_external_data_file(disk: Disk) -> None:
    made(disk, '-o', 'data_file=d', 'v.s1', '4M')
    assert 'external data file' in refusal(disk)


def domain(*disks: Disk, number: int = 1,
           labels: frozenset[str] = frozenset()) -> Domain:
    return Domain('uuid', 'guest', number, disks, labels)


@pytest.mark.parametrize(('found', 'reason'), [
    (Disk('vda', 'a', 'network', (DiskLayer('', 'raw'),)), 'network'),
    (Disk('vda', 'a', 'file', (DiskLayer('/s/v', 'raw'),), readonly=True),
     'read-only'),
    (Disk('vda', 'a', 'file', (DiskLayer('/t/v', 'raw'),
                               DiskLayer('/s/v.1', 'qcow2'))),
     'one folder')])
def test_disks_that_cannot_be_worked_on(found: Disk, reason: str) -> None:
    with pytest.raises(errors.NotSupported, match=reason):
        preflight.check_disk(domain(found), found)


APPARMOR = frozenset({'apparmor', 'dac'})


@pytest.mark.parametrize(('libvirt', 'number', 'labels', 'can'), [
    (11_003_000, 1, APPARMOR, False),
    (12_000_999, 1, APPARMOR, False),
    (12_001_000, 1, APPARMOR, True),
    (11_003_000, 0, APPARMOR, True),
    (11_003_000, 1, frozenset({'dac', 'selinux'}), True),
    (11_003_000, 1, frozenset(), True)])
def test_commit_under_confinement(libvirt: int, number: int,
                                  labels: frozenset[str],
                                  can: bool) -> None:
    remedy = preflight.can_commit(libvirt, domain(number=number,
                                                  labels=labels))
    assert (not remedy) == can
    if not can:
        assert 'AppArmor' in remedy and '12.1.0' in remedy
