# SPDX-License-Identifier: Apache-2.0
"""Copy one file in the cheapest way its share has.

Sharing its extents costs nothing; where the share cannot, only what is
allocated is copied, by the server if it can.  The kernel's refusal of a
cheaper way is no error.  The target is an empty file.  This module must never
write to the source, and never say that a copy is whole which is not.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import errno
import fcntl
import os
from pathlib import Path

from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.header import open_layer

_FICLONE = 0x40049409
# So much at once; between two, progress can be told.
_STEP = 32 << 20
_PIECE = 128 << 10
_ZEROES = bytes(_PIECE)

# What a file system says that cannot do it, or not for these two files.
_CANNOT = frozenset((errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS,
                     errno.EXDEV, errno.EINVAL, errno.EPERM,
                     errno.ETXTBSY))


def share_extents(source: Path, target: Path) -> bool:
    """Make a copy that shares all extents with the source.

    :returns: False where the share cannot.
    """
    with open_layer(source) as old, _opened(target) as new:
        try:
            fcntl.ioctl(new, _FICLONE, old)
        except OSError as exc:
            if exc.errno not in _CANNOT:
                raise
            return False
    return True


def copy_allocated(source: Path, target: Path,
                   progress: Callable[[float], None] | None) -> None:
    """Copy what is allocated of a file; the rest become holes.

    :raises BadLayer: the source cannot be trusted.
    """
    ranges = list(qcow2.raw_data_ranges(source))
    total = sum(length for _, length in ranges)
    with open_layer(source) as old, _opened(target) as new:
        status = os.fstat(old)
        os.ftruncate(new, status.st_size)
        # A file system that cannot tell its holes calls them data.
        sparse = total > status.st_blocks * 512 + _STEP
        done = 0
        for start, length in ranges:
            for at, size in _steps(start, length):
                if sparse or not _in_kernel(old, new, at, size):
                    _by_hand(old, new, at, size)
                done += size
                if progress:
                    progress(100 * done / total)


def _steps(start: int, length: int) -> Iterator[tuple[int, int]]:
    for at in range(start, start + length, _STEP):
        yield at, min(_STEP, start + length - at)


def _in_kernel(old: int, new: int, at: int, size: int) -> bool:
    """Have the kernel copy; False if it cannot, or has not copied all."""
    while size:
        try:
            copied = os.copy_file_range(old, new, size, at, at)
        except OSError as exc:
            if exc.errno not in _CANNOT:
                raise
            return False
        if not copied:
            return False
        at += copied
        size -= copied
    return True


def _by_hand(old: int, new: int, at: int, size: int) -> None:
    """Copy what is not zero."""
    while size:
        piece = os.pread(old, min(size, _PIECE), at)
        if not piece:
            raise OSError(errno.EIO, 'the source became shorter')
        if piece != _ZEROES[:len(piece)]:
            _write(new, piece, at)
        at += len(piece)
        size -= len(piece)


def _write(new: int, piece: bytes, at: int) -> None:
    while piece:
        written = os.pwrite(new, piece, at)
        piece, at = piece[written:], at + written


@contextmanager
def _opened(target: Path) -> Iterator[int]:
    fd = os.open(target, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
