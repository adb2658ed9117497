# SPDX-License-Identifier: Apache-2.0
"""Staged views of encrypted volumes; keys that open fast, no Cinder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
import shutil
import subprocess

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import view_records
from assisted_snapshots.cinder_driver.staged import ImageTool
from assisted_snapshots.cinder_driver.staged import Staged
from assisted_snapshots.cinder_driver.view_records import Record

MIB = 1 << 20
SIZE = 4 * MIB
KEY = Secret(b'of the volume', stretch_ms=10)
OTHER = Secret(b'of another volume', stretch_ms=10)
NAME = 'volume-1.tag'


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What takes LUKS seconds to make: a volume in ``volume``, 0x11 in its
    first MiB, the same with a snapshot in ``chain``, and containers.
    """
    folder = tmp_path_factory.mktemp('luks')
    lone = VolumeFiles(folder / 'volume', 'volume-1')
    lone.folder.mkdir()
    ImageTool(lone.folder, KEY).create(
        Image(lone.name, Format.QCOW2, 0, True), SIZE)
    write(lone.base, 'qcow2', 0x11, 0)
    chain = VolumeFiles(folder / 'chain', 'volume-1')
    shutil.copytree(lone.folder, chain.folder)
    operations(chain).create('s1')
    for name, key in (('own', KEY), ('other', OTHER)):
        ImageTool(folder, key).make(folder / name, SIZE, True)
        for number in range(4):
            write(folder / name, 'luks', 0x30 + number, number * MIB, key)
    return folder


@pytest.fixture(params=['volume', 'chain'])
def files(request: pytest.FixtureRequest, made: Path,
          tmp_path: Path) -> VolumeFiles:
    """A copy of the volume, without a snapshot or with one."""
    return copied(made / request.param, tmp_path)


def copied(source: Path, folder: Path) -> VolumeFiles:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return VolumeFiles(folder, 'volume-1')


def operations(files: VolumeFiles) -> Operations:
    return Operations(files, secret=KEY,
                      formats={files.name: Format.QCOW2})


def options(path: Path, form: str, key: Secret) -> list[str]:
    """Arguments that open a file with a key."""
    wanted = 'encrypt.key-secret' if form == 'qcow2' else 'key-secret'
    below = ',backing.encrypt.key-secret=k' if '.s1' in path.name else ''
    return ['--object', f'secret,id=k,data={key.value.decode()}',
            '--image-opts', f'driver={form},{wanted}=k{below},'
                            f'file.filename={path}']


def write(path: Path, form: str, byte: int, offset: int,
          key: Secret = KEY) -> None:
    """Fill a MiB."""
    subprocess.run(['qemu-io', '-c', f'write -P {byte} {offset} 1M',
                    *options(path, form, key)],
                   check=True, capture_output=True)


def content(path: Path, form: str, key: Secret = KEY) -> bytes:
    """First byte of each MiB, all of which must be alike."""
    raw = path.with_name('plain')
    subprocess.run(['qemu-img', 'convert', '-O', 'raw',
                    *options(path, form, key), raw], check=True)
    data = raw.read_bytes()
    assert all(data[at:at + MIB] == data[at:at + 1] * MIB
               for at in range(0, SIZE, MIB))
    return data[::MIB]


def written(files: VolumeFiles, container: Path, key: Secret) -> Staged:
    """A view that somebody has filled with a container."""
    staged = Staged(files, NAME, key)
    shutil.copyfile(container, staged.path)
    view_records.save(
        files.folder / f'{NAME}.record.view',
        Record('1', None, True, operations(files).state().chain.names,
               step=view_records.OPEN))
    return staged


def close(staged: Staged) -> None:
    found = staged.record()
    assert found
    staged.close(found, SIZE, operations(staged.files).state().chain)


def active(files: VolumeFiles) -> Path:
    return files.folder / operations(files).state().chain.active.name


def test_read(made: Path, tmp_path: Path) -> None:
    files = copied(made / 'chain', tmp_path)
    write(active(files), 'qcow2', 0x22, MIB)
    chain = operations(files).state().chain
    staged = Staged(files, NAME, KEY)
    staged.open(Record('1', None, False, chain.names), chain)
    assert staged.path.read_bytes()[:6] == b'LUKS\xba\xbe'
    assert content(staged.path, 'luks') == b'\x11\x22\0\0'
    assert b'\x11' * 64 not in staged.path.read_bytes()
    close(staged)
    assert operations(files).check() == []
    assert list(files.folder.glob('*.view')) == []


def test_nobody_else_reads_what_is_being_made(made: Path,
                                              tmp_path: Path) -> None:
    files = copied(made / 'chain', tmp_path)
    active(files).chmod(0o660)
    chain = operations(files).state().chain
    staged = Staged(files, NAME, KEY)
    modes = set()
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(staged.open,
                             Record('1', None, False, chain.names), chain)
        while not opened.done():
            with suppress(FileNotFoundError):
                modes.add(staged.path.stat().st_mode & 0o777)
    assert opened.result() == staged.path.name
    assert modes <= {0o600, 0o660}
    assert staged.path.stat().st_mode & 0o777 == 0o660


def test_restore(files: VolumeFiles, made: Path) -> None:
    close(written(files, made / 'own', KEY))
    assert content(active(files), 'qcow2') == b'\x30\x31\x32\x33'
    if active(files) != files.base:
        assert content(files.base, 'qcow2') == b'\x11\0\0\0'
    assert list(files.folder.glob('*.view')) == []


def test_restore_of_another_key(made: Path, tmp_path: Path) -> None:
    """The container brings the key that the volume has from now on."""
    files = copied(made / 'volume', tmp_path)
    close(written(files, made / 'other', OTHER))
    assert content(files.base, 'qcow2', OTHER) == b'\x30\x31\x32\x33'


def test_another_key_above_snapshots(made: Path, tmp_path: Path) -> None:
    """Layers have one key; the snapshot's content must stay readable."""
    files = copied(made / 'chain', tmp_path)
    staged = written(files, made / 'other', OTHER)
    with pytest.raises(errors.ImageToolFailed):
        close(staged)
    assert content(files.base, 'qcow2') == b'\x11\0\0\0'
    assert content(active(files), 'qcow2') == b'\x11\0\0\0'


def test_plain_text_is_no_container(files: VolumeFiles, made: Path) -> None:
    staged = written(files, made / 'own', KEY)
    staged.path.write_bytes(b'\x55' * SIZE)
    with pytest.raises(errors.ImageToolFailed):
        close(staged)
    assert content(active(files), 'qcow2') == b'\x11\0\0\0'
