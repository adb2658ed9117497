# SPDX-License-Identifier: Apache-2.0
"""What the share itself tells of the guest that has a volume.

Where only an unmodified Nova can be asked, words are not enough: a status
can be lost, late or forged.  QEMU locks a byte of every layer for each thing
it does with it, on NFS too, and the headers and cluster tables say what it
has done.  Measured on QEMU 7.2 and 10.0:

==============================  ==========================================
QEMU                            then
==============================  ==========================================
has a disk on a layer           locks it for writing
opens an overlay, to move       locks that one for writing, too
has moved                       has ceased to write to the layer below
commits into a layer            locks that one for writing, too
pulls into the active layer     locks it for filling, too
has ended a merge               has let go of the layers that went
==============================  ==========================================

This module must never write, and never take a promise for a fact.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.lock import Use
from assisted_snapshots.chain.lock import uses
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.value import Format

Names = tuple[str, ...]


@dataclass(frozen=True)
class Merging:
    """A run of layers that becomes one, as it was planned."""

    before: Names
    merged: Names
    survivor: str
    formats: Mapping[str, Format]

    @property
    def up(self) -> bool:
        """True for a pull into the active layer, False for a commit."""
        return self.survivor == self.merged[-1]

    @property
    def removed(self) -> Names:
        """Layers that nothing will refer to."""
        return tuple(n for n in self.merged if n != self.survivor)

    @property
    def after(self) -> Names:
        """The chain afterwards, base first."""
        return tuple(n for n in self.before if n not in self.removed)

    @property
    def below(self) -> str | None:
        """The layer below the run, if any."""
        at = self.before.index(self.merged[0])
        return self.before[at - 1] if at else None


class Evidence:
    """Looks at one volume's files; waits for nobody."""

    def __init__(self, files: VolumeFiles) -> None:
        self._files = files

    def chain(self) -> Names | None:
        """Return the layers that a QEMU works on, base first.

        :returns: None if no QEMU writes to any of them.
        :raises Disagreement: two do, on different chains.
        """
        written = {name for name in self._known()
                   if self._uses(name) & Use.WRITE}
        if not written:
            return None
        for name in written:
            found = self.below(name)
            if written <= set(found):
                return found
        raise errors.Disagreement(
            volume=self._files.name,
            reason=f'{" and ".join(sorted(written))} are both written to')

    def moved(self, name: str) -> bool:
        """Tell whether QEMU has the disk on an overlay.

        libvirt has QEMU open it before, and may have it closed again; only
        a QEMU that has moved stops writing to the layer below.
        """
        live = self.chain()
        return (live is not None and live[-1] == name
                and not any(self._uses(below) & Use.WRITE
                            for below in live[-2:-1]))

    def below(self, name: str) -> Names:
        """Return a layer and what its header names below it."""
        return tuple(reversed([found for found, _ in self._down(name)]))

    def merge(self, before: Names, merged: Names, survivor: str) -> Merging:
        """Return a merge that the journal has been told of."""
        journal = Store(self._files).read_journal() or Journal()
        return Merging(before, merged, survivor, {
            name: pinned.format for name, pinned in journal.layers.items()})

    def merging(self, merge: Merging) -> bool:
        """Tell whether QEMU is at work on a merge, right now."""
        doing = Use.FILL if merge.up else Use.WRITE
        return bool(self._uses(merge.survivor) & doing)

    def merged(self, merge: Merging) -> bool:
        """Tell whether QEMU has made the merge's outcome its chain."""
        return (self.below(merge.before[-1]) == merge.after
                and not any(opened_by_qemu(self._files.path(name))
                            for name in merge.removed))

    def durable(self, merge: Merging) -> bool:
        """Tell whether all that goes is in the survivor, on the share.

        QEMU keeps the tables of what it has pulled in memory until it
        flushes; only what they show on the share outlives it.  After a
        commit it has flushed the survivor before it let go of the rest.
        """
        if merge.formats[merge.survivor] is Format.RAW:
            return True
        survivor = self._files.path(merge.survivor)
        over = merge.after.index(merge.survivor) > 0
        return all(qcow2.covers(qcow2.mapped(survivor), held)
                   for held in self._held(merge, over))

    def _held(self, merge: Merging, over: bool
              ) -> Iterator[Iterable[qcow2.Range]]:
        """Yield what each layer that goes holds."""
        for name in merge.removed:
            path = self._files.path(name)
            yield (qcow2.raw_data_ranges(path)
                   if merge.formats[name] is Format.RAW
                   else qcow2.held(path, over_layers=over))

    def _down(self, name: str) -> Iterator[tuple[str, Format]]:
        """Yield a layer and those below it, each with its format."""
        base = self._files.name
        pinned = Format.RAW if name == base else Format.QCOW2
        while True:
            yield name, pinned
            if pinned is Format.RAW:
                return
            header = qcow2.read_header(self._files.path(name))
            if header.backing is None or header.backing_format is None:
                return
            name, pinned = header.backing, header.backing_format

    def _uses(self, name: str) -> Use:
        try:
            return uses(self._files.path(name))
        except errors.MissingLayer:
            return Use(0)

    def _known(self) -> set[str]:
        """Return the layers that .info and the journal know of.

        Not what is in the folder: it may hold thousands of volumes.
        """
        store = Store(self._files)
        names = {self._files.name, *(store.read_info() or {}).values()}
        journal = store.read_journal()
        if journal:
            names |= set(journal.layers)
            doing = journal.operation
            if doing and doing.kind == 'create':
                names.add(str(doing.details['file']))
        return names
