# SPDX-License-Identifier: Apache-2.0
"""Create and revert: a new empty overlay on top of the chain.

This module must never remove an overlay that a guest may have written to.
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import os
from pathlib import Path

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Names
from assisted_snapshots.chain.volume import Volume

#: What a snapshot of a volume is called that no guest was writing to.
DETACHED = 'detached'

#: What it is called if nobody can tell how the guest was quiesced.
UNKNOWN = 'crash-consistent'


def begin_create(volume: Volume, snapshot_id: str, quiesce: str,
                 state: VolumeState, *, together: bool = False) -> Operation:
    """Check and write down the creation of a snapshot.

    :param together: with those of other volumes of the same guest.
    """
    name = volume.files.overlay(snapshot_id)
    if snapshot_id in state.snapshots or name in state.chain.names:
        raise errors.SnapshotExists(volume=volume.files.name,
                                    snapshot_id=snapshot_id)
    if volume.files.path(name).exists():
        raise volume.disagreement(f'{name} exists, but is no layer')
    volume.check_encrypted(state)
    attached = volume.live(state) is not None
    if volume.keep_active and not attached:
        raise errors.VolumeInUse(
            volume=volume.files.name, user='a guest that is shut off',
            reason='it would be started again on the layer below the '
                   'snapshot')
    if together and not attached:
        raise errors.NotTogether(volume=volume.files.name,
                                 reason='no guest has it')
    operation = Operation('create', snapshot_id, 'overlay', attached, {
        'file': name, 'before': list(state.chain.names),
        'snapshots': dict(state.snapshots), 'quiesce': quiesce,
        'size': state.chain.virtual_size, 'together': together})
    volume.begin(operation, state)
    return operation


def carry_on_create(volume: Volume, operation: Operation) -> str:
    """Do what is left of a creation; returns the consistency.

    A guest that started on the layer below meanwhile would go on writing
    to what is the snapshot then.
    """
    if operation.attached:
        return _create(volume, operation)
    with volume.kept_closed(operation.details['before'][-1]):
        return _create(volume, operation)


def _create(volume: Volume, operation: Operation) -> str:
    if operation.step == 'overlay':
        prepare_create(volume, operation)
        operation = volume.advance(
            operation, 'switch' if operation.attached else 'settle')
    if operation.step == 'switch':
        return settle_create(volume, operation,
                             _New(volume, operation).switch())
    return _finish(volume, operation)


def prepare_create(volume: Volume, operation: Operation) -> None:
    """Make the overlay."""
    new = _New(volume, operation)
    volume.step('make the overlay')
    try:
        volume.make_overlay(new.file, new.before[-1],
                            int(operation.details['size']),
                            like=new.before[-1])
    except errors.ImageToolFailed:
        new.undo()
        raise


def settle_create(volume: Volume, operation: Operation,
                  consistency: str) -> str:
    """Note that a guest has moved, and finish."""
    return _finish(volume, volume.advance(operation, 'settle', details={
        **operation.details, 'consistency': consistency}))


def undo_create(volume: Volume, operation: Operation) -> None:
    """Remove the overlay of a snapshot that nobody was asked for."""
    if volume.journal().operation:
        _New(volume, operation).undo()


def _finish(volume: Volume, operation: Operation) -> str:
    new = _New(volume, operation)
    new.verify()
    volume.step('write .info')
    volume.store.write_info(new.file, {**new.snapshots,
                                       operation.subject: new.file})
    volume.finish()
    return str(operation.details.get('consistency', DETACHED))


def resume_create(volume: Volume, operation: Operation) -> str | None:
    """Finish a creation, or undo it.

    :returns: the consistency, None if it has been undone.
    """
    if operation.step == 'overlay':
        _New(volume, operation).undo()
        return None
    if operation.step == 'switch' and volume.side() \
            and volume.ask() is None:
        new = _New(volume, operation)
        if new.pristine():
            new.undo()
            return None
        operation = volume.advance(operation, 'settle')
    if operation.step == 'switch' and operation.details.get('together'):
        return _resume_together(volume, operation)
    return carry_on_create(volume, operation)


def _resume_together(volume: Volume, operation: Operation) -> str | None:
    """End the part of a creation that was asked for with others.

    It is not asked for again; where the guest is tells how it went.
    """
    new = _New(volume, operation)
    live = volume.ask()
    if live == (*new.before, new.file):
        return settle_create(volume, operation, UNKNOWN)
    if live != new.before or not new.pristine():
        raise volume.disagreement(
            f'the guest runs on {" <- ".join(live or ())}, and nobody knows '
            f'whether it was moved to {new.file}')
    new.undo()
    return None


class _New:
    """The overlay of a creation in flight."""

    def __init__(self, volume: Volume, operation: Operation) -> None:
        details = operation.details
        self._volume = volume
        self._operation = operation
        self.file = volume.files.overlay(operation.subject)
        self.before: Names = tuple(details['before'])
        self.snapshots: Mapping[str, str] = details['snapshots']

    def switch(self) -> str:
        """Have the guest's side move the guest onto the overlay."""
        volume = self._volume
        side = volume.side()
        volume.step('switch the guest')
        try:
            consistency = side.create(
                volume.files.id, self._operation.subject, self.file,
                str(self._operation.details['quiesce']))
        except errors.GuestRefused:
            if self.pristine():
                self.undo()
            raise
        except errors.GuestFailed:
            live = volume.ask()
            if live == self.before or live is None and self.pristine():
                self.undo()
                raise
            if live != (*self.before, self.file):
                raise
            # It failed after the switch: the snapshot is there, but
            # nothing is known of its quiescing.
            return UNKNOWN
        live = volume.ask()
        if live not in (None, (*self.before, self.file)):
            raise volume.disagreement(
                f'the guest runs on {" <- ".join(live or ())} after it was '
                f'moved to {self.file}')
        return consistency

    def pristine(self) -> bool:
        """Tell whether nobody has written to the overlay."""
        self._volume.check_closed(self.file)
        held = qcow2.mapped(self._volume.files.path(self.file))
        return next(iter(held), None) is None

    def verify(self) -> None:
        """See that the overlay lies where it should."""
        files = self._volume.files
        found = qcow2.read_header(files.path(self.file)).backing
        if found != self.before[-1]:
            raise self._volume.disagreement(
                f'{self.file} lies on {found}, not on {self.before[-1]}')

    def undo(self) -> None:
        """Remove the overlay, which holds nothing.

        Whoever was asked to move the guest may do so late: it finds no
        overlay then, or one that QEMU does not take.  Killed in here, all
        is done again.
        """
        volume = self._volume
        path = volume.files.path(self.file)
        with contextlib.suppress(errors.MissingLayer), \
                volume.kept_closed(self.file):
            if self._operation.step != 'overlay':
                self._operation = volume.advance(self._operation, 'overlay')
            volume.step('spoil the overlay')
            _spoil(path)
        volume.remove(path)
        volume.drop()


def _spoil(path: Path) -> None:
    """Take the magic number from a header: QEMU may have opened it."""
    with open(path, 'r+b') as file:
        file.write(bytes(4))
        file.flush()
        os.fsync(file.fileno())


def begin_revert(volume: Volume, snapshot_id: str,
                 state: VolumeState) -> Operation:
    """Check and write down a revert to the newest snapshot."""
    if snapshot_id not in state.snapshots:
        raise errors.SnapshotNotFound(volume=volume.files.name,
                                      snapshot_id=snapshot_id)
    newest = state.ordered_snapshots()[-1]
    if newest != snapshot_id:
        raise errors.NotNewest(volume=volume.files.name,
                               snapshot_id=snapshot_id, newest=newest)
    volume.detached(state, 'revert')
    operation = Operation('revert', snapshot_id, 'overlay', False, {
        'file': state.chain.active.name,
        'below': state.chain.names[-2],
        'size': state.chain.virtual_size})
    volume.begin(operation, state)
    return operation


def carry_on_revert(volume: Volume, operation: Operation) -> None:
    """Put an empty overlay in place of the newest one.

    A guest that started on the old one meanwhile would write to a file that
    has no name.  The volume keeps its size: one never shrinks unasked.
    """
    name = str(operation.details['file'])
    path = volume.files.path(name)
    aside = path.with_name(name + '.tmp')
    below = str(operation.details['below'])
    with volume.kept_closed(name):
        volume.step('make the overlay')
        try:
            volume.make_overlay(aside.name, below,
                                int(operation.details['size']), like=name)
        except errors.ImageToolFailed:
            resume_revert(volume, operation)
            raise
        volume.step('put it in place')
        aside.rename(path)
        sync_folder(path.parent)
    volume.finish()


def resume_revert(volume: Volume, operation: Operation) -> None:
    """Undo a revert that did not come to the exchange, or end it."""
    name = str(operation.details['file'])
    volume.files.path(name)
    volume.remove(volume.files.folder / f'{name}.tmp')
    volume.drop()
