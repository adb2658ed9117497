# SPDX-License-Identifier: Apache-2.0
"""Damages files on purpose, and heals them again."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import errno
import os
from pathlib import Path
import struct

_L1_OFFSET = 40
_OFFSET = 0x00fffffffffffe00
_CHUNK = 4096


def misalign(path: Path) -> None:
    """Let the first cluster of a qcow2 file begin off any boundary.

    QEMU cannot read it then, and says so.
    """
    with open(path, 'r+b') as file:
        def number(at: int) -> int:
            file.seek(at)
            return int(struct.unpack('>Q', file.read(8))[0])
        at = number(number(_L1_OFFSET)) & _OFFSET
        while not number(at) & _OFFSET:
            at += 8
        entry = number(at)
        file.seek(at)
        file.write(struct.pack('>Q', entry + 512))


def truncate(path: Path) -> None:
    """Cut a file off.  QEMU reads zeroes from what is not there."""
    os.truncate(path, path.stat().st_size // 2 // _CHUNK * _CHUNK)


@contextmanager
def damaged(path: Path, how: Callable[[Path], None]) -> Iterator[None]:
    """Damage a file for a while; its inode stays."""
    whole = path.read_bytes()
    how(path)
    assert path.read_bytes() != whole
    yield
    path.write_bytes(whole)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill a file system up for a while, to the last block."""
    ballast = folder / 'ballast'
    with open(ballast, 'wb') as file:
        size, step = 0, 1 << 24
        while step >= _CHUNK:
            try:
                os.posix_fallocate(file.fileno(), size, step)
                size += step
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                step //= 2
        os.fsync(file.fileno())
    yield
    ballast.unlink()
