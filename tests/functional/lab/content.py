# SPDX-License-Identifier: Apache-2.0
"""Proves what an image holds.

The verifying writer (pwriter.c) writes numbered records strictly in order,
so an image that is true holds an exact prefix of the sequence: for some
last record S, every block holds the newest record up to S that belongs
there, byte for byte, and every block never written is zero.  A lost write,
a later write that leaked in, another volume's data or a damaged byte
breaks that.  Bounds on S prove *which* moment the image shows.

This module must be able to say no; test_lab.py shows that it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import struct
import subprocess
import tempfile

from tests.functional.lab import images
from tests.functional.lab import paths

RECORD = 4096
WORDS = RECORD // 8
MAGIC = 0x5041545445524e32
STEP = 0x9e3779b97f4a7c15
MASK = (1 << 64) - 1
HEADER = struct.Struct('<QQQ')
_ZERO = bytes(RECORD)
_ONES = int.from_bytes(struct.pack('<Q', 1) * (WORDS - 3), 'little')
_PLACES = int.from_bytes(
    struct.pack(f'<{WORDS - 3}Q',
                *(i * STEP & MASK for i in range(3, WORDS))), 'little')


class ContentError(AssertionError):
    """An image does not hold what it must."""

    message = '{image}: {reason}'

    def __init__(self, image: Path, reason: str) -> None:
        super().__init__(self.message.format(image=image, reason=reason))


@dataclass(frozen=True)
class Pattern:
    """What one writer writes.

    :ivar stream: number that tells writers apart.
    :ivar blocks: the writer goes around in this many blocks.
    """

    stream: int
    blocks: int

    @classmethod
    def of(cls, name: str, blocks: int) -> Pattern:
        """The pattern of the writer with this name."""
        digest = hashlib.sha256(name.encode()).digest()
        return cls(int.from_bytes(digest[:7], 'little'), blocks)

    def record(self, number: int) -> bytes:
        """Content of one record, as in pwriter.c."""
        seed = (number ^ self.stream) * STEP & MASK
        seed ^= seed >> 29
        body = (_ONES * seed) ^ _PLACES
        return (HEADER.pack(MAGIC, number, self.stream)
                + body.to_bytes(RECORD - HEADER.size, 'little'))

    def expected(self, block: int, last: int) -> int:
        """The record a block must hold when ``last`` was the last; or 0."""
        return max(last - (last - block) % self.blocks, 0)


@dataclass(frozen=True)
class Bounds:
    """The last record of an image lies between these, both included.

    ``lowest`` was acknowledged before the moment in question, ``highest``
    is the newest that had been begun after it.
    """

    lowest: int
    highest: int


def last_record(raw: Path, pattern: Pattern) -> int:
    """Prove that a raw file is an exact prefix; its last record.

    :raises ContentError: it is not.
    """
    held: dict[int, int] = {}
    for block, data in blocks(raw):
        held[block] = _number(raw, pattern, block, data)
    last = max(held.values(), default=0)
    for block in range(pattern.blocks):
        expected = pattern.expected(block, last)
        if held.get(block, 0) != expected:
            raise ContentError(
                raw, f'block {block} holds record {held.get(block, 0)}, '
                f'not {expected}, though record {last} was written')
    return last


def _number(raw: Path, pattern: Pattern, block: int, data: bytes) -> int:
    """The record that fills a block, proved byte for byte."""
    magic, number, stream = HEADER.unpack_from(data)
    if magic != MAGIC or stream != pattern.stream:
        raise ContentError(raw, f'block {block} is foreign: '
                                f'{data[:24].hex()}')
    if number % pattern.blocks != block:
        raise ContentError(raw, f'block {block} holds record {number}, '
                                'which does not belong there')
    if data != pattern.record(number):
        raise ContentError(raw, f'block {block}: record {number} is damaged')
    return int(number)


def blocks(raw: Path) -> Iterator[tuple[int, bytes]]:
    """Every block that is not zero; holes are not read."""
    with open(raw, 'rb', buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        for start, stop in _extents(file.fileno(), end):
            file.seek(start)
            for offset in range(start, stop, RECORD):
                data = file.read(RECORD).ljust(RECORD, b'\0')
                if data != _ZERO:
                    yield offset // RECORD, data


def _extents(handle: int, end: int) -> Iterator[tuple[int, int]]:
    """Extents of a sparse file that may hold data, in whole blocks."""
    at = 0
    while at < end:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError:
            return
        start -= start % RECORD
        at = os.lseek(handle, start, os.SEEK_HOLE)
        at += -at % RECORD
        yield start, at


def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Not on the share, which may be full, and whose files are counted."""
    paths.RUNNING.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix='proof-', dir=paths.RUNNING)


def prove(image: Path, fmt: str, pattern: Pattern,
          bounds: Bounds | None = None, *,
          secret: bytes | None = None) -> int:
    """Prove an image with all its backing files; its last record.

    :param bounds: where the last record must lie.
    :raises ContentError: it does not hold what it must.
    """
    with _scratch() as scratch:
        raw = Path(scratch, image.name)
        images.to_raw(image, fmt, raw, secret)
        last = last_record(raw, pattern)
    if bounds is not None and not bounds.lowest <= last <= bounds.highest:
        raise ContentError(
            image, f'ends with record {last}, which is outside '
            f'{bounds.lowest}..{bounds.highest}')
    return last


def same(left: Path, left_format: str, right: Path, right_format: str, *,
         secret: bytes | None = None) -> None:
    """Prove that two images show the same bytes.

    :raises ContentError: they differ.
    """
    with _scratch() as scratch:
        digests = set()
        for image, fmt in ((left, left_format), (right, right_format)):
            raw = Path(scratch, 'raw')
            images.to_raw(image, fmt, raw, secret)
            digests.add(digest(raw))
    if len(digests) > 1:
        raise ContentError(left, f'differs from {right}')


def digest(raw: Path) -> str:
    """Digest of a raw file's blocks; zero blocks and holes are alike."""
    state = hashlib.sha256()
    for block, data in blocks(raw):
        state.update(block.to_bytes(8, 'little') + data)
    return state.hexdigest()


def prove_ext4(image: Path, fmt: str, file: str, pattern: Pattern,
               bounds: Bounds | None = None, *, clean: bool) -> int:
    """Prove a writer's file inside an image's ext4; its last record.

    :param clean: the file system must need no journal replay, as after a
        freeze; else it is replayed first.
    :raises ContentError: it does not hold what it must.
    """
    with _scratch() as scratch:
        raw = Path(scratch, 'raw')
        images.to_raw(image, fmt, raw)
        if clean == _needs_recovery(raw):
            raise ContentError(image, 'its ext4 '
                               + ('was not frozen' if clean else 'is clean'))
        if not clean:
            _fsck('-fp', raw, image, (0, 1))
        _fsck('-fn', raw, image, (0,))
        inside = Path(scratch, 'file')
        subprocess.run(['/sbin/debugfs', '-R', f'dump {file} {inside}', raw],
                       check=True, capture_output=True)
        last = last_record(inside, pattern)
    if bounds is not None and not bounds.lowest <= last <= bounds.highest:
        raise ContentError(
            image, f'{file} ends with record {last}, which is outside '
            f'{bounds.lowest}..{bounds.highest}')
    return last


def _needs_recovery(raw: Path) -> bool:
    output = subprocess.run(['/sbin/dumpe2fs', '-h', raw], check=True,
                            capture_output=True, text=True).stdout
    return 'needs_recovery' in output


def _fsck(mode: str, raw: Path, image: Path, fine: tuple[int, ...]) -> None:
    done = subprocess.run(['/sbin/e2fsck', mode, raw], check=False,
                          text=True, capture_output=True)
    if done.returncode not in fine:
        raise ContentError(image, f'its ext4 is damaged: {done.stdout}')
