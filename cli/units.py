# SPDX-License-Identifier: Apache-2.0
"""Sizes as people write and read them.

Only for people: documents (json, yaml) carry exact integers of bytes.
"""

from __future__ import annotations

import re

from assisted_snapshots.cli import errors

_UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')
_SIZE = re.compile(r'(\d+)\s*([KMGTP]?)(?:i?B)?\Z', re.IGNORECASE | re.ASCII)
_LARGEST = (1 << 63) - 1


def human(count: int | float) -> str:
    """Write a number of bytes with the unit that suits it."""
    power = 0
    while count >= 1024 << 10 * power and power < len(_UNITS) - 1:
        power += 1
    if not power:
        return f'{int(count)} B'
    return f'{count / (1 << 10 * power):.1f} {_UNITS[power]}'


def parse_size(text: str) -> int:
    """Read ``4096``, ``512M`` or ``4GiB`` (powers of 1024) as bytes."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise errors.BadSize(text=text)
    power = ' KMGTP'.index(match[2].upper() or ' ')
    size = int(match[1]) << (10 * power)
    if size > _LARGEST:
        raise errors.BadSize(text=text)
    return size


def duration(seconds: float) -> str:
    """Write a time span: ``0.42 s``, ``12.3 s``, ``3 min 07 s``."""
    if seconds < 60:
        return f'{seconds:.2f} s' if seconds < 10 else f'{seconds:.1f} s'
    return f'{int(seconds) // 60} min {int(seconds) % 60:02d} s'
