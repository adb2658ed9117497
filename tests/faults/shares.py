# SPDX-License-Identifier: Apache-2.0
"""File systems made for a test: one that shares extents, and one that cannot.

The loop device goes with the mount.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import subprocess

_SIZE = 320 << 20


@contextmanager
def mounted(folder: Path, kind: str) -> Iterator[Path]:
    """Yield an empty file system; ``xfs`` shares extents, ``tmpfs`` cannot."""
    image, place = folder / f'{kind}.img', folder / kind
    place.mkdir()
    with image.open('wb') as file:
        os.ftruncate(file.fileno(), _SIZE)
    if kind == 'xfs':
        subprocess.run(['mkfs.xfs', '-q', '-m', 'reflink=1', image],
                       check=True)
    option = 'loop' if kind == 'xfs' else f'size={_SIZE}'
    subprocess.run(['mount', '-t', kind, '-o', option, image, place],
                   check=True)
    try:
        yield place
    finally:
        subprocess.run(['umount', place], check=True)
        image.unlink()
