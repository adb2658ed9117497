# SPDX-License-Identifier: Apache-2.0
"""Delete and flatten: layers become one, by qemu-img or in the guest.

The journal binds the operation to the plan made at its start; a repeat
carries that plan on and never makes a new one, so it cannot reach a layer
that it was not asked for.  This module must never unlink a layer before
whoever did the work said so and the headers on the share agree.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
import contextlib
from contextlib import AbstractContextManager
import os
from typing import Any
from typing import TypeVar

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.guest import BUSY
from assisted_snapshots.chain.guest import NOT_MOVED
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.merge import Merge
from assisted_snapshots.chain.plan import BOTH
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.plan import Method
from assisted_snapshots.chain.plan import plan_delete
from assisted_snapshots.chain.plan import plan_flatten
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import plan_details
from assisted_snapshots.chain.store import plan_of
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Names
from assisted_snapshots.chain.volume import Volume

_ENCRYPTED = ('encrypted layers are pulled onto a base only in a running '
              'guest, and the active layer has to stay; start the guest or '
              'detach the volume')

_Plan = TypeVar('_Plan', bound=MergePlan | None)


def delete_plan(volume: Volume, snapshot_id: str, state: VolumeState,
                attached: bool) -> MergePlan:
    """Plan a delete with the directions there are."""
    return _choose(volume, state, attached, lambda allowed: plan_delete(
        state, snapshot_id, attached=attached, allowed=allowed,
        keep_active=volume.keeps_active(attached)))


def flatten_plan(volume: Volume, state: VolumeState,
                 attached: bool) -> MergePlan | None:
    """Plan a flatten; None where there is one layer only."""
    return _choose(volume, state, attached, lambda allowed: plan_flatten(
        state, attached=attached, allowed=allowed,
        keep_active=volume.keeps_active(attached)))


def _choose(volume: Volume, state: VolumeState, attached: bool,
            plan: Callable[[Collection[Direction]], _Plan]) -> _Plan:
    allowed, remedy = _allowed(volume, attached)
    try:
        made = plan(allowed)
    except errors.NoDirection as exc:
        if remedy:
            raise errors.NoDirection(**{**exc.fields,
                                        'reason': remedy}) from exc
        raise
    if (isinstance(made, MergePlan) and not attached
            and state.chain.active.encrypted
            and made.direction is Direction.UP and made.new_backing):
        # qemu-img cannot be told the new backing file's secret without
        # writing where it found it into the header.
        try:
            made = plan({Direction.DOWN})
        except errors.NoDirection as exc:
            raise errors.NoDirection(**{
                **exc.fields, 'reason': _ENCRYPTED}) from exc
    return made


def begin(volume: Volume, kind: str, subject: str,
          state: VolumeState) -> Operation | None:
    """Plan, check and write down; None where there is nothing to do."""
    attached = volume.live(state) is not None
    plan = (flatten_plan(volume, state, attached) if kind == 'flatten'
            else delete_plan(volume, subject, state, attached))
    if plan is None:
        return None
    work = Merge(volume.files, plan, volume.tool, volume.step)
    volume.check_space(kind, work.needed_bytes())
    operation = Operation(kind, subject, 'merge', attached, {
        **plan_details(plan), 'untouched': _mark(volume, plan.survivor),
        'keep_active': volume.keeps_active(attached)})
    volume.begin(operation, state)
    return operation


def carry_on(volume: Volume, operation: Operation, *,
             resumed: bool = False) -> None:
    """Do what is left of a merge."""
    plan = plan_of(volume.files, operation)
    work = Merge(volume.files, plan, volume.tool, volume.step)
    if operation.step == 'settle' and not operation.attached \
            and _may_be_newer(volume, plan):
        operation = volume.advance(operation, 'merge')
    if operation.step == 'merge' and operation.attached:
        operation = _by_guest(volume, operation, plan, work, resumed)
        if operation.attached:
            operation = volume.advance(operation, 'settle')
    try:
        with _guarded(volume, operation, plan):
            if operation.step == 'merge':
                _by_tool(volume, operation, plan, work)
            else:
                _settle(volume, plan, work)
    except errors.VolumeInUse:
        if operation.step == 'merge':
            _undo_if_nothing_is_lost(volume, operation, plan, None)
        raise


def _guarded(volume: Volume, operation: Operation,
             plan: MergePlan) -> AbstractContextManager[None]:
    """Keep a guest that could be started from starting in between.

    Where the active file stays, nothing else would keep it from opening
    the chain while layers go.
    """
    keep = volume.keep_active or operation.details.get('keep_active')
    if keep and not operation.attached and not plan.changes_active:
        return volume.guarded(plan.after[-1])
    return contextlib.nullcontext()


def _by_tool(volume: Volume, operation: Operation, plan: MergePlan,
             work: Merge) -> None:
    """Merge with qemu-img; a guest that starts meanwhile stops it.

    What that one writes to a layer which is copied already would be lost.
    """
    top = plan.before[-1]
    for name in (top, plan.after[-1]):
        volume.check_closed(name)
    copied = _on_files(volume, operation, plan, work)
    with (volume.kept_closed(top) if plan.changes_active
          else contextlib.nullcontext()):
        if plan.changes_active and _mark(volume, top) != copied:
            raise errors.VolumeInUse(
                volume=volume.files.name, user='somebody else',
                reason=f'{top} was written to after it had been copied; '
                       f'repeat the operation')
        volume.advance(operation, 'settle')
        _settle(volume, plan, work)


def _may_be_newer(volume: Volume, plan: MergePlan) -> bool:
    """Tell whether a guest may have written to what was copied already.

    As long as .info names the upper layer as the active one, a guest can
    be started on it, also after a crash.
    """
    if not plan.changes_active or not volume.files.path(
            plan.before[-1]).exists():
        return False
    try:
        info = volume.store.read_info() or {}
    except errors.BadInfo:
        info = {}
    return info.get('active') != plan.after[-1]


def _settle(volume: Volume, plan: MergePlan, work: Merge) -> None:
    """Do what comes after the data."""
    work.repoint()
    volume.step('write .info')
    volume.store.write_info(plan.after[-1], plan.snapshots_after)
    for name in plan.removed:
        volume.remove(volume.files.path(name))
    volume.finish()


def _on_files(volume: Volume, operation: Operation, plan: MergePlan,
              work: Merge) -> list[int]:
    """Copy and prove; returns the mark of the upper layer as copied."""
    try:
        work.copy()
        copied = _mark(volume, plan.before[-1])
        work.prove()
    except errors.ImageToolFailed:
        _undo_if_nothing_is_lost(volume, operation, plan, None)
        raise
    return copied


def _by_guest(volume: Volume, operation: Operation, plan: MergePlan,
              work: Merge, resumed: bool) -> Operation:
    """Have the guest's side merge.

    :returns: the operation, as a detached one if it must be done here.
    """
    side = volume.side()
    live = volume.ask()
    if live not in (None, plan.before, plan.after):
        raise _third(volume, plan, live)
    volume.step('merge in the guest')
    try:
        if live is None and _repeatable(volume, operation, plan):
            return _take_over(volume, operation)
        side.merge(volume.files.id, operation.subject, operation.kind,
                   plan.before, plan.merged, plan.survivor)
    except errors.GuestRefused:
        _undo_if_nothing_is_lost(volume, operation, plan, None)
        raise
    except errors.GuestFailed as exc:
        live = volume.ask()
        if resumed and live is None and _may_repeat(volume, plan, work, exc):
            return _take_over(volume, operation)
        forgotten = resumed and exc.fields.get('code') == BUSY
        if live in (None, plan.before) and not forgotten:
            _undo_if_nothing_is_lost(volume, operation, plan, live)
        raise
    live = volume.ask()
    if live not in (None, plan.after):
        raise _third(volume, plan, live)
    work.verify()
    return operation


def _undo_if_nothing_is_lost(volume: Volume, operation: Operation,
                             plan: MergePlan, live: Names | None) -> None:
    """Drop a merge that has failed; else leave it to be repeated.

    A copy upwards repeats what shows already; one downwards may have cost
    the snapshot that is being deleted its content.
    """
    if plan.direction is Direction.DOWN \
            and not _untouched(volume, operation, plan):
        return
    try:
        state = volume.state()
    except errors.OperationInFlight:
        return
    if state.chain.names == plan.before == (live or plan.before):
        # A share may be too full even for the journal.  The merge then waits
        # to be repeated, and the caller learns why it failed, not that.
        with contextlib.suppress(OSError):
            volume.drop()


def _repeatable(volume: Volume, operation: Operation,
                plan: MergePlan) -> bool:
    """Tell whether the removed layers hold all, whatever has been done.

    So it is unless the guest may have moved down onto the survivor: what it
    wrote there is nowhere else.
    """
    return (plan.method is not Method.ACTIVE_COMMIT
            or _untouched(volume, operation, plan))


def _may_repeat(volume: Volume, plan: MergePlan, work: Merge,
                failure: errors.GuestFailed) -> bool:
    """Tell whether an active commit of a guest that is gone can be redone.

    Only if it was still on the upper layer; or if that one has nothing else
    than the lower one, so that committing it again changes nothing.
    """
    if failure.fields.get('code') == NOT_MOVED:
        return True
    for name in (plan.before[-1], plan.after[-1]):
        volume.check_closed(name)
    if work.shows_the_same():
        return True
    raise volume.disagreement(
        f'the guest is gone, and nobody knows whether it last wrote to '
        f'{plan.before[-1]} or to {plan.after[-1]} ({failure})') from failure


def _take_over(volume: Volume, operation: Operation) -> Operation:
    """Make it an operation on the files."""
    return volume.advance(operation, 'merge', attached=False)


def _third(volume: Volume, plan: MergePlan,
           live: Names | None) -> errors.Disagreement:
    return volume.disagreement(
        f'the guest runs on {" <- ".join(live or ())}, which is neither '
        f'{" <- ".join(plan.before)} nor {" <- ".join(plan.after)}')


def _allowed(volume: Volume,
             attached: bool) -> tuple[Collection[Direction], str]:
    """Return the possible directions, and why not both."""
    if not attached:
        return BOTH, ''
    possible, remedy = volume.side().can_commit(volume.files.id)
    return (BOTH, '') if possible else ({Direction.UP}, remedy)


def _mark(volume: Volume, name: str) -> list[int]:
    """Return what changes when somebody writes to a layer.

    Opened, as NFS otherwise tells what it knew some time ago.
    """
    with open_layer(volume.files.path(name)) as fd:
        found = os.fstat(fd)
    return [found.st_size, found.st_mtime_ns]


def _untouched(volume: Volume, operation: Operation,
               plan: MergePlan) -> bool:
    marked: Any = operation.details.get('untouched')
    return bool(marked == _mark(volume, plan.survivor))
