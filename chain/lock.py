# SPDX-License-Identifier: Apache-2.0
"""Mutual exclusion on one volume, and who else has it open.

The lock is of the open file description (it conflicts with POSIX locks, and
crosses hosts on NFS), so a qemu-img that inherits it keeps it when the
process that started it is killed: nobody begins to recover while that
qemu-img still writes.  This module must never remove the lock file while
somebody could be waiting on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
import enum
import errno
import fcntl
import os
from pathlib import Path
import struct
from types import TracebackType

from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import renew_folder

# Agent, Cinder and command line may be users of one group.
_MODE = 0o660

_FLOCK = struct.Struct('hhqqi4x')
# QEMU's block/file-posix.c: a byte for each permission in use, and one for
# each that nobody else may have.
_QEMU_LOCKS = (100, 100)
_QEMU_DENIED = (200, 64)


class VolumeLock:
    """The lock file of a volume, for callers without a distributed lock.

    Waits for its holder; excludes threads and processes alike.
    """

    def __init__(self, files: VolumeFiles) -> None:
        self._path = files.lock
        self._fd = -1

    def fileno(self) -> int:
        """Return the descriptor that holds the lock."""
        return self._fd

    def __enter__(self) -> VolumeLock:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
                         | os.O_CLOEXEC, _MODE)
            try:
                if _taken(fd, self._path):
                    self._fd = fd
                    return self
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def __exit__(self, kind: type[BaseException] | None,
                 exc: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._fd)
        self._fd = -1


def opened_by_qemu(path: Path) -> bool:
    """Tell whether a QEMU or qemu-img has an image open.

    They lock what they open, on local file systems and on NFS, so this also
    finds a guest that nobody told of.
    """
    with open_layer(path) as fd:
        return _locked(fd, *_QEMU_LOCKS)


class Use(enum.Flag):
    """What QEMU does with an image; it locks a byte for each.

    ``FILL`` is writing what the guest reads there anyway: pulling.
    """

    READ = 1
    WRITE = 2
    FILL = 4
    RESIZE = 8


def uses(path: Path) -> Use:
    """Return what all the QEMUs that have an image open do with it."""
    found = Use(0)
    with open_layer(path) as fd:
        for place, use in enumerate(Use):
            if _locked(fd, _QEMU_LOCKS[0] + place, 1):
                found |= use
    return found


@contextmanager
def denied_to_qemu(path: Path) -> Iterator[int]:
    """Let no QEMU or qemu-img open an image; who has it open, keeps it.

    It is told that somebody else uses the image.  Asking
    :func:`opened_by_qemu` after this has begun leaves no gap: QEMU takes its
    own locks before it looks for those of others, too.  Yields the
    descriptor that denies, for a qemu-img that may work on it nevertheless.
    """
    with open_layer(path) as fd:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(
            fcntl.F_RDLCK, os.SEEK_SET, *_QEMU_DENIED, 0))
        yield fd


def _locked(fd: int, start: int, length: int) -> bool:
    """Tell whether somebody else has locked a range."""
    ask = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, ask)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _taken(fd: int, path: Path) -> bool:
    """Wait for the lock; False if it has gone with its volume meanwhile.

    Its name then is not there or means another file; if another host has
    removed it from a share, nothing can be done with the descriptor.
    """
    try:
        with suppress(PermissionError):  # another user's file
            os.fchmod(fd, _MODE)  # whatever the umask took away
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW,
                    _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        renew_folder(path.parent)
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return False
