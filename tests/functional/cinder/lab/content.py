# SPDX-License-Identifier: Apache-2.0
"""What a volume or snapshot shows a guest, read by QEMU's tools alone.

Formats are given by who asks, never probed; nothing of the project reads
here.
"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import mmap
from pathlib import Path
import subprocess
import tempfile

from tests.functional.lab import content
from tests.functional.lab import images
from tests.functional.lab import paths

#: What one pattern covers unless a test says otherwise.
LENGTH = 64 * 1024
GIB = 1 << 30


@dataclass(frozen=True)
class Content:
    """Guest-visible bytes: the size, and a digest per block that is not zero.

    Compared, not looked at; a difference says in which blocks.
    """

    size: int
    blocks: dict[int, str]

    def bytes_at(self, offset: int) -> str:
        """Digest of the block at an offset; empty for zeroes."""
        return self.blocks.get(offset // content.RECORD, '')


def digest(byte: int) -> str:
    """Digest of a block that a pattern fills."""
    return hashlib.sha256(bytes([byte]) * content.RECORD).hexdigest()[:16]


def of_raw(raw: Path) -> Content:
    """Content of a raw file, which is sparse."""
    return Content(raw.stat().st_size, {
        block: hashlib.sha256(data).hexdigest()[:16]
        for block, data in content.blocks(raw)})


def of(image: Path, fmt: str, secret: bytes | None = None) -> Content:
    """Content of an image with all its backing files."""
    if fmt == 'raw':
        return of_raw(image)
    paths.RUNNING.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.RUNNING) as scratch:
        raw = Path(scratch, 'raw')
        images.to_raw(image, fmt, raw, secret)
        return of_raw(raw)


def write(image: Path, fmt: str, byte: int, offset: int = 0,
          length: int = LENGTH, secret: bytes | None = None) -> None:
    """Fill a range with a byte, as a guest would; 0 writes zeroes."""
    command = (f'write -P {byte} {offset} {length}' if byte
               else f'write -z {offset} {length}')
    if secret is None:
        images.io(image, fmt, [command])
        return
    opts = ','.join(f'{key}={value}' for key, value
                    in images.options(image, fmt, True).items())
    with tempfile.NamedTemporaryFile() as file:
        file.write(secret)
        file.flush()
        subprocess.run(
            ['qemu-io', '--object',
             f'secret,id={images.SECRET_ID},file={file.name}',
             '--image-opts', '-c', command, opts],
            check=True, capture_output=True)


def assert_sealed(path: Path, *patterns: int) -> None:
    """It is a container of a GiB, and nothing in it is in the clear."""
    with (open(path, 'rb') as file,
          mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data):
        assert data[:6] == b'LUKS\xba\xbe'
        for byte in patterns:
            assert data.find(bytes([byte]) * 512) < 0, hex(byte)
        # Nor can it be told where there is nothing, behind the header.
        assert data.find(bytes(512), len(data) - GIB) < 0
