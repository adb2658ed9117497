# SPDX-License-Identifier: Apache-2.0
"""How much has been copied when a merge has come to a place on the disk.

QEMU tells how far down the disk a commit or a pull is, holes included.
What the layers that will go hold below that place is what it has copied.
Only shown: a layer that a guest writes to is read as it happens to be.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.value import Format


class Places:
    """The data of layers, by place.

    :ivar size: of the disk.
    :ivar total: bytes of data.
    """

    def __init__(self, ranges: Iterable[qcow2.Range], size: int) -> None:
        self.size = size
        found = sorted(ranges)
        self._starts = [start for start, _ in found]
        self._lengths = [length for _, length in found]
        self._before = [0, *accumulate(self._lengths)]
        self.total = self._before[-1]

    def below(self, place: int) -> int:
        """Return the bytes of data that lie below a place."""
        at = bisect_right(self._starts, place) - 1
        if at < 0:
            return 0
        return self._before[at] + min(self._lengths[at],
                                      place - self._starts[at])


def of_merge(files: VolumeFiles, plan: MergePlan) -> Places | None:
    """Return the data of what a merge removes; None where it is not known.

    Of the active layer it is not: it grows, and QEMU counts right there.
    """
    if plan.before[-1] in plan.removed:
        return None
    ranges: list[qcow2.Range] = []
    size = 0
    try:
        for name in plan.removed:
            path = files.path(name)
            if plan.formats[name] is Format.RAW:
                ranges += qcow2.raw_data_ranges(path)
                size = max(size, path.stat().st_size)
            else:
                ranges += qcow2.data_ranges(path)
                size = max(size, qcow2.read_header(path).virtual_size)
    except (errors.ChainError, OSError):
        return None
    return Places(ranges, size)
