# SPDX-License-Identifier: Apache-2.0
"""What an operation will do to a chain, decided before anything is touched.

Pure functions of a :class:`~assisted_snapshots.chain.value.VolumeState`.
One planner serves the attached and the detached volume, so ``plan`` on the
command line shows exactly what the agent or qemu-img will be asked.

Merging is the one idea: a contiguous run of layers becomes a single one.
Deleting snapshot S merges its overlay with the layer below it; flattening
merges all.  The run is merged *down* (upper layers are committed into the
lowest, which survives) or *up* (lower layers are pulled into the highest,
which survives).  Whichever copies fewer bytes is taken; a tie goes down,
which keeps a raw base raw.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping
from dataclasses import dataclass
import enum
from types import MappingProxyType

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState


class Direction(enum.StrEnum):
    """Which way data move when layers merge."""

    DOWN = 'down'
    UP = 'up'


BOTH = frozenset(Direction)


class Method(enum.StrEnum):
    """How QEMU carries a merge out (QEMU docs/interop/live-block-operations).

    COMMIT merges below the active layer; ACTIVE_COMMIT includes it and ends
    with a pivot; PULL streams into the active layer; REBASE pulls into a
    layer that is not active, which only qemu-img can do.
    """

    COMMIT = 'commit'
    ACTIVE_COMMIT = 'active-commit'
    PULL = 'pull'
    REBASE = 'rebase'


@dataclass(frozen=True, slots=True)
class MergePlan:
    """A contiguous run of layers becomes one.

    :ivar volume: volume name.
    :ivar before: layer names base first, as planned on.
    :ivar merged: the run, lowest first; at least two names.
    :ivar direction: which way the data move.
    :ivar formats: format of every layer of ``before``.
    :ivar snapshots_before: snapshot id -> file before.
    :ivar snapshots_after: the same afterwards.
    :ivar copy_bytes: upper bound of the bytes that will be copied.
    :ivar other_bytes: what the other direction would copy.
    """

    volume: str
    before: tuple[str, ...]
    merged: tuple[str, ...]
    direction: Direction
    formats: Mapping[str, Format]
    snapshots_before: Mapping[str, str]
    snapshots_after: Mapping[str, str]
    copy_bytes: int
    other_bytes: int

    @property
    def survivor(self) -> str:
        """The layer that holds the merged data."""
        return self.merged[0 if self.direction is Direction.DOWN else -1]

    @property
    def removed(self) -> tuple[str, ...]:
        """Layers that nothing refers to afterwards; these are unlinked."""
        return tuple(n for n in self.merged if n != self.survivor)

    @property
    def after(self) -> tuple[str, ...]:
        """Layer names afterwards, base first."""
        return tuple(n for n in self.before if n not in self.removed)

    @property
    def new_backing(self) -> str | None:
        """What lies below the survivor afterwards."""
        at = self.after.index(self.survivor)
        return self.after[at - 1] if at else None

    @property
    def child(self) -> str | None:
        """The layer above the run, whose backing name changes, if any."""
        at = self.before.index(self.merged[-1]) + 1
        return self.before[at] if at < len(self.before) else None

    @property
    def method(self) -> Method:
        """The block operation this merge is."""
        has_active = self.merged[-1] == self.before[-1]
        if self.direction is Direction.DOWN:
            return Method.ACTIVE_COMMIT if has_active else Method.COMMIT
        return Method.PULL if has_active else Method.REBASE

    @property
    def changes_active(self) -> bool:
        """True where the guest ends on another file than it began on."""
        return self.before[-1] != self.after[-1]


def plan_delete(state: VolumeState, snapshot_id: str, *,
                attached: bool = False,
                allowed: Collection[Direction] = BOTH,
                keep_active: bool = False) -> MergePlan:
    """Plan the deletion of one snapshot.

    :param attached: a guest runs on the volume; libvirt can then pull only
        into the active layer.
    :param allowed: directions the caller can carry out.
    :param keep_active: the active file must be the same afterwards.
    :raises SnapshotNotFound: no such snapshot.
    :raises NoDirection: neither direction is possible; says why.
    :raises Disagreement: the snapshot's file is no overlay of its own.
    """
    if snapshot_id not in state.snapshots:
        raise errors.SnapshotNotFound(volume=state.volume,
                                      snapshot_id=snapshot_id)
    top = _overlay(state, snapshot_id)
    return _merge(state, top - 1, top, {snapshot_id}, attached,
                  _kept(state, top, allowed) if keep_active else allowed)


def plan_flatten(state: VolumeState, *, attached: bool = False,
                 allowed: Collection[Direction] = BOTH,
                 keep_active: bool = False) -> MergePlan | None:
    """Plan merging every layer into one; None if there is only one.

    Every snapshot of the volume is gone afterwards: callers make sure that
    this is what was asked for.

    :raises NoDirection: neither direction is possible; says why.
    """
    last = len(state.chain.layers) - 1
    if last == 0:
        return None
    return _merge(state, 0, last, set(state.snapshots), attached,
                  _kept(state, last, allowed) if keep_active else allowed)


def _kept(state: VolumeState, high: int,
          allowed: Collection[Direction]) -> Collection[Direction]:
    """Return the directions that leave the active file what it is.

    Upstream's protocol knows no others: up into the active layer, down
    below it.
    """
    active = high == len(state.chain.layers) - 1
    wanted = Direction.UP if active else Direction.DOWN
    if wanted not in allowed:
        raise errors.NoDirection(
            volume=state.volume, layers=state.chain.layers[high].name,
            reason=f'the active layer has to stay, and merging {wanted} is '
                   f'not possible')
    return {wanted}


def _overlay(state: VolumeState, snapshot_id: str) -> int:
    """Return where a snapshot's overlay is; it is nobody else's.

    Merging what another snapshot calls its overlay would give that one
    other content, and below the base there is nothing to merge with.
    """
    file = state.snapshots[snapshot_id]
    top = state.chain.index(file)
    shared = list(state.snapshots.values()).count(file) > 1
    if not top or shared:
        raise errors.Disagreement(
            volume=state.volume,
            reason=f'{file}, the file of snapshot {snapshot_id}, '
                   + ('is that of another one too' if shared
                      else 'has no layer below it'))
    return top


def _merge(state: VolumeState, low: int, high: int, dropped: set[str],
           attached: bool, allowed: Collection[Direction]) -> MergePlan:
    """Plan the merge of layers low..high, both included."""
    run = state.chain.layers[low:high + 1]
    cost = {Direction.DOWN: sum(layer.allocated for layer in run[1:]),
            Direction.UP: sum(layer.allocated for layer in run[:-1])}
    mid_chain = high < len(state.chain.layers) - 1
    possible = [d for d in Direction if d in allowed
                and not (attached and mid_chain and d is Direction.UP)]
    if not possible:
        raise errors.NoDirection(
            volume=state.volume, layers=', '.join(n.name for n in run),
            reason='libvirt pulls only into the active layer'
                   if mid_chain and attached and Direction.UP in allowed
                   else 'committing into the lower layer is not possible')
    direction = min(possible, key=lambda d: cost[d])
    survivor = run[0 if direction is Direction.DOWN else -1].name
    gone = {layer.name for layer in run} - {survivor}
    after = {s: survivor if file in gone else file
             for s, file in state.snapshots.items() if s not in dropped}
    return MergePlan(
        volume=state.volume, before=state.chain.names,
        merged=tuple(layer.name for layer in run), direction=direction,
        formats=MappingProxyType(
            {layer.name: layer.format for layer in state.chain.layers}),
        snapshots_before=MappingProxyType(dict(state.snapshots)),
        snapshots_after=MappingProxyType(after),
        copy_bytes=cost[direction],
        other_bytes=cost[Direction.UP if direction is Direction.DOWN
                         else Direction.DOWN])
