# SPDX-License-Identifier: Apache-2.0
"""Counts an agent's journal transactions from outside of its process.

SQLite's write-ahead log marks the last frame of each transaction with the
size of the database (https://www.sqlite.org/fileformat2.html#walformat).
"""

from __future__ import annotations

from pathlib import Path
import struct

_HEADER = struct.Struct('>8I')
_FRAME = struct.Struct('>6I')


def transactions(state_dir: Path) -> int:
    """Transactions in the log since it was last begun anew."""
    log = (state_dir / 'journal.sqlite-wal').read_bytes()
    if len(log) < _HEADER.size:
        return 0
    header = _HEADER.unpack_from(log)
    page, salts = header[2], header[4:6]
    count, at = 0, _HEADER.size
    while at + _FRAME.size + page <= len(log):
        frame = _FRAME.unpack_from(log, at)
        if frame[2:4] != salts:
            break
        count += bool(frame[1])
        at += _FRAME.size + page
    return count
