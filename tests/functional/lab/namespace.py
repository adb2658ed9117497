# SPDX-License-Identifier: Apache-2.0
"""A private mount namespace for the whole laboratory process.

libvirtd's folders are compiled in, so a second libvirtd needs its own view
of /etc/libvirt, /run/libvirt and so on.  Mounts made here vanish with the
last process of the laboratory, even if that is killed.  Without root there
is no namespace and none is needed: libvirtd then runs in session mode.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
import subprocess

CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | 1 << 18
MS_REC_SHARED = 0x4000 | 1 << 20

def privileged() -> bool:
    """Whether this process may mount."""
    return os.geteuid() == 0


@functools.cache
def enter() -> None:
    """Detach this process's mounts from the machine's; once is enough.

    Afterwards they are shared with the laboratory's own children only, so
    that a share mounted later is visible to a libvirtd started earlier.
    """
    if not privileged():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for status in (libc.unshare(CLONE_NEWNS),
                   libc.mount(b'none', b'/', None, MS_REC_PRIVATE, None),
                   libc.mount(b'none', b'/', None, MS_REC_SHARED, None)):
        if status:
            raise OSError(ctypes.get_errno(), 'cannot make a mount namespace')


def mount_image(image: Path, folder: Path) -> None:
    """Mount a file system image on a folder through a loop device."""
    enter()
    subprocess.run(['mount', '-o', 'loop', image, folder], check=True)


def unmount(folder: Path) -> None:
    """Undo :func:`mount_image`; the loop device is released."""
    subprocess.run(['umount', folder], check=True)
