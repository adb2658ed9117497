# SPDX-License-Identifier: Apache-2.0
"""The raw view of a chain, as root and as an ordinary user."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
import tempfile

import pytest

from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import storage_daemon
from assisted_snapshots.cinder_driver.storage_daemon import Node

NOBODY = 65534
SIZE = 8 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an ordinary user owns, with a chain of two layers."""
    with tempfile.TemporaryDirectory(prefix='views-') as name:
        found = Path(name)
        base, overlay = found / 'base', found / 'overlay'
        base.write_bytes(b'\x11' * SIZE)
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
                        'base', '-F', 'raw', overlay, str(SIZE)], check=True)
        (found / 'mount').touch()
        for path in (found, base, overlay, found / 'mount'):
            os.chown(path, NOBODY, NOBODY)
        yield found
        storage_daemon.stop(found / 'mount')


def as_user(fn: Callable[[], str]) -> str:
    """Call something as an ordinary user; what it returns or raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            told = fn()
        except BaseException as exc:
            told = f'{type(exc).__name__}: {exc}'
        os.write(writer, told.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        told = file.read()
    os.waitpid(child, 0)
    return told


def start(folder: Path, writable: bool = False, others: bool = False) -> str:
    storage_daemon.start(
        folder / 'mount', [Node(folder / 'base', Format.RAW),
                           Node(folder / 'overlay', Format.QCOW2)],
        writable=writable, others=others)
    return 'started'


def test_ordinary_user(folder: Path) -> None:
    mount = folder / 'mount'

    def live() -> str:
        start(folder, writable=True)
        assert storage_daemon.alive(mount)
        with open(mount, 'r+b') as file:
            assert file.read() == b'\x11' * SIZE
            file.seek(4096)
            file.write(b'\x22' * 4096)
        storage_daemon.flush(mount)
        storage_daemon.stop(mount)
        assert not storage_daemon.alive(mount)
        assert mount.stat().st_size == 0
        start(folder)
        assert mount.read_bytes()[4096:8192] == b'\x22' * 4096
        storage_daemon.stop(mount)
        return 'fine'

    assert as_user(live) == 'fine'
    assert (folder / 'base').read_bytes() == b'\x11' * SIZE


def test_root_must_see_it(folder: Path) -> None:
    """The one setting that the host's administrator has to make."""
    told = as_user(lambda: start(folder, others=True))
    assert told.startswith('OthersDenied')
    assert 'user_allow_other' in told
    assert '/etc/fuse.conf' in told
    assert not storage_daemon.alive(folder / 'mount')


def test_another_user_is_refused(folder: Path) -> None:
    assert as_user(lambda: start(folder)) == 'started'
    with pytest.raises(PermissionError):
        (folder / 'mount').read_bytes()


def test_what_qemu_says(folder: Path) -> None:
    (folder / 'overlay').write_bytes(b'no header')
    with pytest.raises(storage_daemon.ViewFailed, match='qcow2 format'):
        start(folder)
    assert not storage_daemon.alive(folder / 'mount')


def test_no_backing_name_is_followed(folder: Path) -> None:
    """The layers are those that were given, whatever a header names."""
    (folder / 'base').rename(folder / 'elsewhere')
    (folder / 'base').write_bytes(b'\x33' * SIZE)
    storage_daemon.start(
        folder / 'mount', [Node(folder / 'elsewhere', Format.RAW),
                           Node(folder / 'overlay', Format.QCOW2)],
        writable=False, others=False)
    assert (folder / 'mount').read_bytes() == b'\x11' * SIZE
    storage_daemon.stop(folder / 'mount')
    storage_daemon.start(
        folder / 'mount', [Node(folder / 'overlay', Format.QCOW2)],
        writable=False, others=False)
    assert (folder / 'mount').read_bytes() == bytes(SIZE)
