# SPDX-License-Identifier: Apache-2.0
"""A bare LUKS container, adopted, killed at every step and change."""

from __future__ import annotations

from collections.abc import Callable
import functools
from pathlib import Path
import subprocess

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.bare import is_bare
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.value import Format
from tests.faults import killer
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import MIB
from tests.images import PASSPHRASE
from tests.images import SECRET
from tests.images import tool

pytestmark = pytest.mark.usefixtures('quick_stretching')

OBJECT = ('--object', f'secret,id=s,data={PASSPHRASE.decode()}')
CHANGES = 6


@pytest.fixture
def made(tmp_path: Path) -> Disk:
    """What upstream makes of a snapshot of an encrypted volume."""
    (tmp_path / 'made').mkdir()
    disk = Disk(tmp_path / 'made', 'luks', 2 * MIB)
    tool('qemu-img', 'create', '-q', '-f', 'luks', *OBJECT, '-o',
         'key-secret=s,iter-time=10', disk.files.name, MIB,
         cwd=disk.files.folder)
    tool('qemu-io', *OBJECT, '--image-opts', '-c',
         f'write -P 4 {CLUSTER} {CLUSTER}',
         f'driver=luks,key-secret=s,file.filename={disk.files.name}',
         cwd=disk.files.folder)
    disk.now[:MIB] = b'\0' * MIB
    subprocess.run(['qemu-io', *OBJECT, '--image-opts', '-c',
                    'write -P 0 0 1M', '-c',
                    f'write -P 4 {CLUSTER} {CLUSTER}',
                    'driver=luks,key-secret=s,'
                    f'file.filename={disk.files.name}'],
                   cwd=disk.files.folder, check=True, capture_output=True)
    disk.now[CLUSTER:2 * CLUSTER] = b'\x04' * CLUSTER
    return disk


def as_raw(disk: Disk, observer: Callable[[str], None] = lambda _step: None,
           ) -> Operations:
    return Operations(disk.files, formats={disk.files.name: Format.RAW},
                      secret=SECRET, observer=observer)


def adopt(disk: Disk, observer: Callable[[str], None]) -> None:
    as_raw(disk, observer).adopt_luks(2 * MIB)


def test_adopted_it_is_a_volume_like_others(made: Disk) -> None:
    mode = made.files.base.stat().st_mode
    adopt(made, lambda _step: None)
    adopt(made, lambda _step: None)
    assert made.files.base.stat().st_mode == mode
    assert not is_bare(made.files)
    made.verify()
    made.take('s1')
    made.write((0, CLUSTER, 3))
    made.verify()


def test_nothing_else_is_done_with_it(made: Disk) -> None:
    before = made.files.base.read_bytes()
    operations = as_raw(made)
    for attempt in (lambda: operations.create('s1'),
                    lambda: operations.clone(None, made.files.folder / 'c'),
                    lambda: operations.extend(8 * MIB)):
        with pytest.raises(errors.NotEncrypted, match='is detached'):
            attempt()
    assert made.files.base.read_bytes() == before
    assert operations.recover() == []


def test_not_while_a_guest_has_it(made: Disk) -> None:
    guest = subprocess.Popen(
        ['qemu-io', *OBJECT, '--image-opts',
         f'driver=luks,key-secret=s,file.filename={made.files.name}'],
        cwd=made.files.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert guest.stdout
    guest.stdout.read(1)
    try:
        with pytest.raises(errors.VolumeInUse):
            adopt(made, lambda _step: None)
    finally:
        guest.communicate()
    assert is_bare(made.files)
    adopt(made, lambda _step: None)
    made.verify()


def test_a_failure_leaves_it_as_it_was(made: Disk) -> None:
    before = made.files.base.read_bytes()
    wrong = Operations(made.files, formats={made.files.name: Format.RAW},
                       secret=type(SECRET)(b'wrong'))
    with pytest.raises(errors.ImageToolFailed):
        wrong.adopt_luks(2 * MIB)
    assert made.files.base.read_bytes() == before
    assert as_raw(made).recover() == []
    adopt(made, lambda _step: None)
    made.verify()


def test_killed_anywhere(made: Disk, tmp_path: Path,
                         killer_library: Path) -> None:
    uncut = made.copy(tmp_path / 'uncut')
    uncut.now = made.now
    counter = tmp_path / 'count'
    steps, changes = killer.count(killer_library, counter,
                                  functools.partial(adopt, uncut))
    uncut.verify()
    outcomes = set()
    cuts = [('step', number) for number in range(len(steps))] + [
        ('change', 1 + i * (changes - 1) // CHANGES)
        for i in range(CHANGES + 1)]
    for number, (kind, at) in enumerate(cuts):
        disk = made.copy(tmp_path / f'cut{number}')
        disk.now = bytearray(made.now)
        act = functools.partial(adopt, disk)
        if kind == 'step':
            killer.kill_at_step(act, at)
        else:
            killer.kill_at_change(killer_library, counter, act, at)
        bare = is_bare(disk.files)
        outcomes.add(bare)
        operations = as_raw(disk) if bare else disk.operations()
        told = operations.recover(dry_run=True)
        assert operations.recover() == told
        assert operations.recover() == []
        adopt(disk, lambda _step: None)
        disk.verify()
    assert outcomes == {True, False}
