# SPDX-License-Identifier: Apache-2.0
"""One snapshot of several volumes, taken by one guest in one transaction.

Every volume has its own intent and is recovered by itself; what keeps them
together is that the guest moves to all of the overlays or to none:

=========================  ===============================================
killed                     then, for each volume
=========================  ===============================================
before all overlays are    undone: nobody has been asked, whoever is asked
made and noted             later finds no overlay
while the guest was asked  it tells where it is.  On the overlay: finished.
                           Not: undone, and the overlay is spoiled first,
                           so that no request on its way moves any disk
later                      finished: .info
=========================  ===============================================

This module must never ask for the move again: the others may have been
undone meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from contextlib import ExitStack

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import snapshots
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.volume import Volume

#: A volume's id, the snapshot's id, and the overlay's bare name.
Disk = tuple[str, str, str]

#: Moves a guest to all overlays or none; takes the disks and ``quiesce``,
#: returns the consistency, and raises what ``GuestSide.create`` does.
CreateAll = Callable[[tuple[Disk, ...], str], str]

_Doing = list[tuple[Volume, Operation]]


def create(parts: Sequence[tuple[Volume, str]], create_all: CreateAll,
           quiesce: str) -> str:
    """Take a snapshot of each volume, all at one moment.

    :raises NotTogether: a volume is named twice, or no guest has it.
    """
    _check_twice(parts)
    with ExitStack() as stack:
        for volume, _ in sorted(parts, key=lambda part: part[0].files.name):
            stack.enter_context(volume.locked())
        told = _resume(parts)
        if told is not None:
            return told
        doing = _prepare(parts, quiesce)
        consistency = _switch(doing, create_all, quiesce)
        return [snapshots.settle_create(volume, operation, consistency)
                for volume, operation in doing][0]


def _check_twice(parts: Sequence[tuple[Volume, str]]) -> None:
    seen = set()
    for volume, _ in parts:
        if volume.files in seen:
            raise errors.NotTogether(volume=volume.files.name,
                                     reason='it is named twice')
        seen.add(volume.files)


def _resume(parts: Sequence[tuple[Volume, str]]) -> str | None:
    """End what an earlier attempt has left; its outcome if it is done."""
    told = []
    for volume, snapshot_id in parts:
        doing = volume.resumable('create', snapshot_id)
        if doing:
            told.append(snapshots.resume_create(volume, doing))
    there = [snapshot_id in volume.state().snapshots
             for volume, snapshot_id in parts]
    return next(filter(None, told), None) if all(there) else None


def _prepare(parts: Sequence[tuple[Volume, str]], quiesce: str) -> _Doing:
    """Make all overlays, and note that the guest may be asked."""
    doing: _Doing = []
    try:
        for volume, snapshot_id in parts:
            operation = snapshots.begin_create(
                volume, snapshot_id, quiesce, volume.state(), together=True)
            doing.append((volume, operation))
        for volume, operation in doing:
            snapshots.prepare_create(volume, operation)
    except errors.ChainError:
        for volume, operation in doing:
            snapshots.undo_create(volume, operation)
        raise
    return [(volume, volume.advance(operation, 'switch'))
            for volume, operation in doing]


def _switch(doing: _Doing, create_all: CreateAll, quiesce: str) -> str:
    """Have the guest moved.

    :raises GuestFailed: it was not; nothing is left of the snapshot.
    """
    volume = doing[0][0]
    volume.step('switch the guest')
    disks = tuple((volume.files.id, operation.subject,
                   volume.files.overlay(operation.subject))
                  for volume, operation in doing)
    try:
        return create_all(disks, quiesce)
    except errors.GuestFailed:
        told = [snapshots.resume_create(volume, operation)
                for volume, operation in doing]
        if not all(told):
            raise
        return snapshots.UNKNOWN
