# SPDX-License-Identifier: Apache-2.0
"""Which parts of the guest's disk one file of a chain holds itself.

A merge is proven by the cluster tables on the share: whatever a removed
layer held must be held by the survivor.  The tables are not encrypted, so
no secret is needed, and nothing runs that could change the file.  This
module must never write and never look into a backing file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from collections.abc import Iterator
import enum
import os
from pathlib import Path
import sys
from typing import NoReturn

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.header import Header
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.header import parse_header
from assisted_snapshots.chain.header import read_at
from assisted_snapshots.chain.header import read_header

__all__ = ['Header', 'Range', 'covers', 'data_ranges', 'gaps', 'held',
           'mapped', 'raw_data_ranges', 'read_header']

#: Start and length in bytes of a part of the guest's disk.
Range = tuple[int, int]

_OFFSET = 0x00fffffffffffe00
_COMPRESSED = 1 << 62
_ZERO = 1
_SUBCLUSTERS = 32
_ALL = (1 << _SUBCLUSTERS) - 1


class _Kind(enum.IntEnum):
    """What a cluster is to the guest."""

    HOLE = 0
    ZERO = 1
    DATA = 2


_Extent = tuple[int, int, _Kind]


def mapped(path: str | Path) -> Iterator[Range]:
    """Yield what a qcow2 file holds itself, as data or as zeroes.

    Sorted and merged; the rest shows the layer below, or zeroes.

    :raises BadLayer: header or tables cannot be trusted.
    """
    return _joined(path, _Kind.ZERO)


def data_ranges(path: str | Path) -> Iterator[Range]:
    """Yield what a qcow2 file holds as data; see :func:`mapped`."""
    return _joined(path, _Kind.DATA)


def held(path: str | Path, *, over_layers: bool) -> Iterator[Range]:
    """Yield what has to be mapped elsewhere before a qcow2 file may go.

    Zeroes count where there are layers below, which would show through;
    where there are none, what nobody maps is zero.
    """
    return mapped(path) if over_layers else data_ranges(path)


def raw_data_ranges(path: str | Path) -> Iterator[Range]:
    """Yield the parts of a raw file that are no holes.

    :raises BadLayer: the file cannot be trusted.
    """
    with open_layer(path) as fd:
        end = os.fstat(fd).st_size
        hole = 0
        while hole < end:
            try:
                start = os.lseek(fd, hole, os.SEEK_DATA)
            except OSError:  # ENXIO: no data up to the end
                return
            hole = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, hole - start


def gaps(upper: Iterable[Range], lower: Iterable[Range]) -> Iterator[Range]:
    """Yield the parts of ``lower`` that are not in ``upper``."""
    above = iter(upper)
    have = next(above, None)
    for start, length in lower:
        at, end = start, start + length
        while at < end:
            while have and sum(have) <= at:
                have = next(above, None)
            if not have or have[0] >= end:
                yield at, end - at
                break
            if have[0] > at:
                yield at, have[0] - at
            at = min(end, sum(have))


def covers(upper: Iterable[Range], lower: Iterable[Range]) -> bool:
    """Tell whether all of ``lower`` is in ``upper``."""
    return next(gaps(upper, lower), None) is None


def _joined(path: str | Path, least: _Kind) -> Iterator[Range]:
    """Yield neighbouring extents of at least a kind as one range."""
    start = end = 0
    for at, length, kind in _extents(path):
        if kind < least:
            continue
        if at != end:
            if end > start:
                yield start, end - start
            start = at
        end = at + length
    if end > start:
        yield start, end - start


def _extents(path: str | Path) -> Iterator[_Extent]:
    """Yield every piece of the guest's disk in order."""
    with open_layer(path) as fd:
        yield from _Tables(fd, path, parse_header(fd, path)).extents()


class _Tables:
    """The cluster tables of one open file."""

    def __init__(self, fd: int, path: str | Path, header: Header) -> None:
        self._fd = fd
        self._path = path
        self._header = header
        self._end = os.fstat(fd).st_size

    def extents(self) -> Iterator[_Extent]:
        """Yield what the tables describe, up to the virtual size."""
        size = self._header.virtual_size
        reach = self._header.l2_entries * self._header.cluster_size
        needed = -(-size // reach)
        l1 = self._table(self._header.l1_offset, needed * 8)
        pieces = self._divided if self._header.extended_l2 else self._plain
        for index, entry in enumerate(l1):
            if entry & _OFFSET:
                l2 = self._table(self._host(entry),
                                 self._header.cluster_size)
                for at, length, kind in pieces(l2, index * reach):
                    if at < size:
                        yield at, min(length, size - at), kind

    def _table(self, offset: int, length: int) -> array[int]:
        """Read a table of big-endian numbers."""
        table = array('Q', read_at(self._fd, self._path, offset, length))
        if sys.byteorder == 'little':
            table.byteswap()
        return table

    def _host(self, entry: int) -> int:
        """Return the place in the file that a table entry points to."""
        offset = entry & _OFFSET
        if offset % self._header.cluster_size:
            self._corrupt(f'table entry {entry:#x} is not aligned')
        if offset >= self._end:
            # A guest may be writing: has the file grown meanwhile?
            self._end = os.fstat(self._fd).st_size
            if offset >= self._end:
                self._corrupt(f'it is truncated, the cluster at byte '
                              f'{offset} is outside of the file')
        return offset

    def _corrupt(self, reason: str) -> NoReturn:
        raise errors.BadLayer(file=self._path,
                              reason=f'is corrupt: {reason}')

    def _plain(self, table: array[int], start: int) -> Iterator[_Extent]:
        """Yield the pieces of an L2 table without subclusters."""
        step = self._header.cluster_size
        for i, entry in enumerate(table):
            if entry:
                yield start + i * step, step, self._kind(entry)

    def _kind(self, entry: int) -> _Kind:
        if entry & _COMPRESSED:
            return _Kind.DATA
        if entry & _ZERO:
            if self._header.version < 3:
                self._corrupt('a zero cluster in version 2')
            return _Kind.ZERO
        if not entry & _OFFSET:
            return _Kind.HOLE
        self._host(entry)
        return _Kind.DATA

    def _divided(self, table: array[int], start: int) -> Iterator[_Extent]:
        """Yield the pieces of an L2 table with subclusters."""
        step = self._header.cluster_size
        for i in range(0, len(table), 2):
            entry, bitmap = table[i], table[i + 1]
            at = start + i // 2 * step
            if entry & _COMPRESSED:
                yield at, step, _Kind.DATA
            elif entry or bitmap:
                yield from self._subclusters(entry, bitmap, at)

    def _subclusters(self, entry: int, bitmap: int,
                     start: int) -> Iterator[_Extent]:
        """Yield the subclusters of one extended L2 entry."""
        data, zero = bitmap & _ALL, bitmap >> _SUBCLUSTERS
        if data & zero or data and not entry & _OFFSET:
            self._corrupt(f'subclusters {bitmap:#x} at byte {start} of the '
                          f'disk contradict themselves')
        if data:
            self._host(entry)
        step = self._header.cluster_size // _SUBCLUSTERS
        for i in range(_SUBCLUSTERS):
            kind = _Kind((data >> i & 1) * 2 + (zero >> i & 1))
            yield start + i * step, step, kind
