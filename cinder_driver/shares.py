# SPDX-License-Identifier: Apache-2.0
"""New and removed files of volumes on a share.

Files are made and removed by this process itself, never by root, so that
they belong to who works on them later.  This module must never replace a
file, and never remove one that a QEMU process has open.
"""

from __future__ import annotations

from contextlib import ExitStack
import os
from pathlib import Path

from assisted_snapshots.chain.lock import denied_to_qemu
from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import RESERVED
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.qemu_img import QemuImg
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.store import sync_file
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import failures

#: Modes of files: what upstream's nas_secure_file_permissions means.
SECURE = 0o660
OPEN = 0o666

_BLOCK = bytes(1 << 20)


def make(files: VolumeFiles, form: Format, size: int, mode: int, *,
         sparse: bool = True, secret: Secret | None = None) -> None:
    """Make an empty volume.

    Killed in the middle, a file is there that Cinder knows the share of, so
    deleting the volume removes it.

    :param size: in bytes.
    :param sparse: whether a raw file takes no space yet.
    """
    fd = os.open(files.base, os.O_RDWR | os.O_CREAT | os.O_EXCL
                 | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)  # whatever the umask took away
        if form is Format.RAW and sparse:
            os.ftruncate(fd, size)
        elif form is Format.RAW:
            _fill(fd, size)
    finally:
        os.close(fd)
    if form is Format.QCOW2:
        QemuImg(files.folder, secret).create(
            Image(files.name, form, 0, secret is not None), size)
    sync_file(files.base)
    sync_folder(files.folder)


def set_modes(files: VolumeFiles, mode: int) -> None:
    """Give a new volume's files the mode that the backend's files have."""
    set_mode(files.base, mode)
    set_mode(files.journal, mode)


def set_mode(path: Path, mode: int) -> None:
    """Give a file a mode."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def remove(files: VolumeFiles, volume_id: str) -> None:
    """Remove every file of a volume, the bookkeeping last.

    Killed anywhere, removing it again finishes it.

    :raises StillOpen: somebody uses it; no file was removed.
    """
    if not any(_layers(files)) and not any(_kept(files)):
        return
    with VolumeLock(files), ExitStack() as kept_closed:
        layers = _layers(files)
        for path in layers:
            kept_closed.enter_context(denied_to_qemu(path))
            if opened_by_qemu(path):
                raise failures.StillOpen(file=path.name, volume=volume_id)
        for path in (*layers, *_kept(files)):
            path.unlink(missing_ok=True)
        sync_folder(files.folder)


def _layers(files: VolumeFiles) -> list[Path]:
    """Return a volume's layers, overlays before the base."""
    return [files.folder / name for name in _names(files)
            if not name.endswith(RESERVED)]


def _kept(files: VolumeFiles) -> list[Path]:
    """Return what is kept about a volume, its lock last."""
    found = [files.folder / name for name in _names(files)
             if name.endswith(RESERVED)]
    return sorted(found, key=lambda path: path == files.lock)


def _names(files: VolumeFiles) -> list[str]:
    return sorted(filter(files.owns, os.listdir(files.folder)), reverse=True)


def _fill(fd: int, size: int) -> None:
    """Write zeroes, so that the space is taken whatever the share does."""
    written = 0
    while written < size:
        written += os.write(fd, _BLOCK[:size - written])
