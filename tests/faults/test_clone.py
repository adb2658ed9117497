# SPDX-License-Identifier: Apache-2.0
"""The ways to a clone, on shares that share extents and that do not."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import errno
import fcntl
import functools
import os
from pathlib import Path
import shutil
import subprocess

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import filecopy
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.value import Format
from tests.faults import killer
from tests.faults import shares
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import MIB
from tests.images import SECRET

pytestmark = pytest.mark.usefixtures('quick_stretching')

SIZE = 16 * MIB
OTHER = Secret(b'another one', stretch_ms=10)


@pytest.fixture(scope='module', params=['xfs', 'tmpfs'])
def share(request: pytest.FixtureRequest,
          tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp(request.param)
    with shares.mounted(folder, request.param) as place:
        yield place


@pytest.fixture
def folder(share: Path, tmp_path: Path) -> Iterator[Path]:
    made = share / tmp_path.name
    made.mkdir()
    yield made
    shutil.rmtree(made)


def make(folder: Path, kind: str, snapshots: int = 2) -> Disk:
    """Make a volume with much in its base and little in its overlays."""
    disk = Disk(folder, kind, SIZE)
    disk.make()
    disk.write((0, 6 * MIB, 1), (10 * MIB + 512, MIB, 2))
    for number in range(1, snapshots + 1):
        disk.take(f's{number}')
        disk.write((number * MIB, CLUSTER, 10 + number),
                   (number * MIB + 512 * 1024, CLUSTER, 0),
                   (13 * MIB, 4096 * number, 20 + number))
    return disk


def content(disk: Disk, name: str, form: Format,
            secret: Secret | None = None) -> bytes:
    """Return what is in a clone, which must be sound and stand alone."""
    copy = Disk(disk.files.folder, 'luks' if secret else form, name=name)
    state = copy.unpinned().state()
    assert state.chain.names == (name,)
    assert state.chain.active.format is form
    assert state.chain.active.encrypted == bool(secret)
    assert Operations(copy.files, secret=secret).check() == []
    argv: list[str] = ['-f', form, name]
    if secret:
        argv = ['--object', f'secret,id=s,data={secret.value.decode()}',
                '--image-opts', f'driver=qcow2,file.filename={name},'
                                'encrypt.key-secret=s']
    flat = disk.files.folder / 'flat'
    subprocess.run(['qemu-img', 'convert', '-O', 'raw', *argv, flat],
                   cwd=disk.files.folder, check=True)
    try:
        return flat.read_bytes()
    finally:
        flat.unlink()


def own_bytes(path: Path) -> int:
    """Return how much of a file is on the share only once."""
    told = subprocess.run(['filefrag', '-v', path], check=True, text=True,
                          capture_output=True).stdout
    return sum(int(line.split(':')[3]) for line in told.splitlines()
               if line.strip()[:1].isdigit() and 'shared' not in line
               ) * os.statvfs(path).f_bsize


@pytest.mark.parametrize('size', [SIZE, SIZE + 3 * MIB])
@pytest.mark.parametrize('kind, form, of', [
    ('raw', Format.RAW, 's1'), ('raw', Format.RAW, 's2'),
    ('raw', Format.RAW, None), ('raw', Format.QCOW2, 's1'),
    ('qcow2', Format.QCOW2, 's1'), ('qcow2', Format.QCOW2, 's2'),
    ('qcow2', Format.QCOW2, None), ('qcow2', Format.RAW, None),
    ('luks', Format.QCOW2, 's1'), ('luks', Format.QCOW2, None)])
def test_a_clone_is_whole(folder: Path, share: Path, kind: str, form: Format,
                          of: str | None, size: int) -> None:
    disk = make(folder, kind)
    before = {path.name: path.read_bytes() for path in folder.iterdir()
              if path.suffix not in ('.journal', '.lock')}
    steps: list[str] = []
    disk.operations(observer=steps.append).clone(
        of, folder / 'volume-2', form, size)
    wanted = disk.snapshots[of] if of else disk.now
    assert content(disk, 'volume-2', form, disk.secret) == bytes(
        wanted).ljust(size, b'\0')
    disk.verify(also={'volume-2', 'volume-2.journal', 'volume-2.lock'})
    for name, data in before.items():
        assert (folder / name).read_bytes() == data
    cheap = share.name == 'xfs' and form == ('raw' if kind == 'raw'
                                             else 'qcow2')
    if cheap:
        os.sync()
        assert own_bytes(folder / 'volume-2') <= MIB
    assert steps.count('add an overlay') == (
        {'s1': 0, 's2': 1, None: 2}[of] if cheap else 0)


def test_overlays_that_hold_more_than_shows_are_not_added_one_by_one(
        tmp_path: Path) -> None:
    with shares.mounted(tmp_path, 'xfs') as share:
        disk = Disk(share, 'raw', 2 * MIB)
        disk.make()
        for number in range(1, 4):
            disk.take(f's{number}')
            disk.write((0, 2 * MIB, number))
        steps: list[str] = []
        disk.operations(observer=steps.append).clone(
            None, share / 'volume-2', Format.RAW)
        assert 'add an overlay' not in steps
        assert content(disk, 'volume-2', Format.RAW) == disk.now


@pytest.mark.parametrize('kind', ['raw', 'qcow2', 'luks'])
def test_a_clone_with_a_passphrase_of_its_own(folder: Path,
                                              kind: str) -> None:
    disk = make(folder, kind)
    for number, of in enumerate(('s1', None), 2):
        name = f'volume-{number}'
        disk.operations().clone(of, folder / name, Format.QCOW2,
                                SIZE + MIB, target_secret=OTHER)
        assert content(disk, name, Format.QCOW2, OTHER) == bytes(
            disk.snapshots[of] if of else disk.now).ljust(SIZE + MIB, b'\0')
    with pytest.raises(errors.BadTarget, match='not be encrypted'):
        disk.operations().clone('s1', folder / 'volume-4', Format.RAW,
                                target_secret=OTHER)


def test_the_same_passphrase_is_no_other_one(folder: Path,
                                             share: Path) -> None:
    disk = make(folder, 'luks', 1)
    disk.operations().clone('s1', folder / 'volume-2',
                            target_secret=Secret(SECRET.value))
    if share.name == 'xfs':
        os.sync()
        assert own_bytes(folder / 'volume-2') <= MIB
    assert content(disk, 'volume-2', Format.QCOW2, SECRET) == \
        disk.snapshots['s1']


def test_no_guest_can_start_while_its_volume_is_cloned(folder: Path) -> None:
    disk = make(folder, 'qcow2')
    active = disk.operations().state().chain.active.name
    seen: list[str] = []

    def start(step: str) -> None:
        if step in ('copy', 'add an overlay', 'flush'):
            done = subprocess.run(
                ['qemu-io', '-f', 'qcow2', '-c', 'write 0 512', active],
                cwd=folder, check=False, capture_output=True, text=True)
            assert 'lock' in done.stderr
            seen.append(step)

    disk.operations(observer=start).clone(None, folder / 'volume-2')
    assert len(seen) >= 2
    assert content(disk, 'volume-2', Format.QCOW2) == disk.now


def test_a_guest_that_was_faster_has_the_clone_withdrawn(
        folder: Path) -> None:
    disk = make(folder, 'raw', 0)

    def start(step: str) -> None:
        if step == 'write the intent':
            guests.append(subprocess.Popen(
                ['qemu-io', '-f', 'raw', disk.files.name], cwd=folder,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert guests[0].stdout
            guests[0].stdout.read(1)

    guests: list[subprocess.Popen[bytes]] = []
    try:
        with pytest.raises(errors.VolumeInUse):
            disk.operations(observer=start).clone(None, folder / 'volume-2')
        with pytest.raises(errors.VolumeInUse):
            disk.operations().clone(None, folder / 'volume-2')
    finally:
        guests[0].communicate()
    assert disk.operations().recover() == []
    disk.verify(also={'volume-2.lock'})


def test_a_clone_that_shares_needs_no_room(
        folder: Path, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = make(folder, 'raw', 1)
    real = os.statvfs(folder)
    full = os.statvfs_result((*real[:4], 0, *real[5:]))
    monkeypatch.setattr(os, 'statvfs', lambda _: full)
    clone = functools.partial(disk.operations().clone, 's1',
                              folder / 'volume-2', Format.RAW)
    if share.name == 'xfs':
        clone()
        assert content(disk, 'volume-2', Format.RAW) == disk.snapshots['s1']
        return
    with pytest.raises(errors.NoSpace, match='has 0 free'):
        clone()
    assert disk.operations().recover() == []
    disk.verify(also={'volume-2.lock'})


@pytest.mark.parametrize('kind, of', [('raw', 's1'), ('raw', None),
                                      ('qcow2', None), ('luks', None)])
def test_killed_in_front_of_every_step(folder: Path, share: Path, kind: str,
                                       of: str | None) -> None:
    (folder / 'made').mkdir()
    made = make(folder / 'made', kind)
    form = Format.RAW if kind == 'raw' else Format.QCOW2

    def clone(disk: Disk, observer: Callable[[str], None]) -> None:
        disk.operations(observer=observer).clone(
            of, disk.files.folder / 'volume-2', form, SIZE + MIB)

    steps: list[str] = []
    uncut = made.copy(folder / 'uncut')
    clone(uncut, steps.append)
    shutil.rmtree(uncut.files.folder)
    assert ('add an overlay' in steps) == (of is None
                                           and share.name == 'xfs')
    for number in range(len(steps)):
        disk = made.copy(folder / f'cut{number}')
        killer.kill_at_step(functools.partial(clone, disk), number)
        told = disk.operations().recover(dry_run=True)
        assert disk.operations().recover() == told
        assert disk.operations().recover() == []
        if not (disk.files.folder / 'volume-2').exists():
            disk.verify(also={'volume-2.lock'})
            clone(disk, lambda _step: None)
        assert content(disk, 'volume-2', form, disk.secret) == bytes(
            disk.snapshots[of] if of else disk.now).ljust(SIZE + MIB, b'\0')
        disk.verify(also={'volume-2', 'volume-2.journal', 'volume-2.lock'})
        shutil.rmtree(disk.files.folder)


class TestFileCopy:
    """What the kernel may answer."""

    @pytest.fixture
    def source(self, folder: Path) -> Path:
        source = folder / 'source'
        with source.open('wb') as file:
            file.write(b'\x01' * CLUSTER + bytes(CLUSTER) + b'\x02' * 100)
            file.seek(9 * MIB)
            file.write(b'\x03' * 5000)
            file.truncate(11 * MIB + 7)
        (folder / 'target').touch()
        return source

    @pytest.mark.parametrize('refusal', [None, errno.EXDEV, 0])
    def test_copied_whole_however(
            self, source: Path, refusal: int | None,
            monkeypatch: pytest.MonkeyPatch) -> None:
        def copy(*_arguments: object) -> int:
            if refusal:
                raise OSError(refusal, 'not here')
            return 0

        if refusal is not None:
            monkeypatch.setattr(os, 'copy_file_range', copy)
        target = source.with_name('target')
        told: list[float] = []
        filecopy.copy_allocated(source, target, told.append)
        assert target.read_bytes() == source.read_bytes()
        assert told[-1] == 100
        assert target.stat().st_blocks <= source.stat().st_blocks

    def test_holes_that_nobody_tells_of_stay_holes(
            self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with source.open('r+b') as file:
            file.truncate(200 * MIB)
        monkeypatch.setattr(qcow2, 'raw_data_ranges',
                            lambda path: [(0, path.stat().st_size)])
        target = source.with_name('target')
        filecopy.copy_allocated(source, target, None)
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_blocks <= source.stat().st_blocks + 2048

    def test_an_error_is_none_of_not_being_able(
            self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_arguments: object) -> int:
            raise OSError(errno.EIO, 'the disk is broken')

        monkeypatch.setattr(os, 'copy_file_range', fail)
        monkeypatch.setattr(fcntl, 'ioctl', fail)
        target = source.with_name('target')
        with pytest.raises(OSError, match='broken'):
            filecopy.copy_allocated(source, target, None)
        with pytest.raises(OSError, match='broken'):
            filecopy.share_extents(source, target)
