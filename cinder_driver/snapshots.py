# SPDX-License-Identifier: Apache-2.0
"""Snapshots: create, delete, revert.

Each holds the volume's lock, reads the rows again, refuses what cannot be
safe, and leaves the chain to ``chain.Operations``, whose table says what a
crash leaves behind at every step.  Killed before or after that, nothing of
this module is lost: Cinder's records are derived from the chain, and are
brought in step by whoever touches the volume next.  This module must never
unlink a layer on the word of the database.
"""

from __future__ import annotations

from contextlib import suppress

from cinder import exception
from cinder import objects
from cinder.objects import fields
from oslo_log import log as logging

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.store import Store
from assisted_snapshots.cinder_driver import attachments
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver import reasons
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import native

LOG = logging.getLogger(__name__)

#: What the names of snapshots that Cinder takes for itself begin with.
TEMPORARY = 'tmp-snap-'

#: States of a volume in which a snapshot can be taken.
CREATE = ('available', 'in-use', 'backing-up')
_DELETE = ('available', 'in-use', 'backing-up', 'deleting', 'downloading')
_REVERT = ('available', 'reverting')


def create(backend: Backend, snapshot: objects.Snapshot) -> None:
    """Take a snapshot; what stands in the way becomes its metadata."""
    check_enabled(backend)
    try:
        with backend.locked(snapshot.volume_id), failures.translated():
            _create(backend, snapshot)
    except exception.CinderException as exc:
        reasons.note(backend.context(), snapshot, str(exc))
        raise


def _create(backend: Backend, snapshot: objects.Snapshot) -> None:
    row = fresh_row(backend, snapshot)
    volume = backend.fresh_by_id(row.volume_id)
    downloading = (row.display_name or '').startswith(TEMPORARY)
    check_state(volume, 'taking a snapshot',
                (*CREATE, 'downloading') if downloading else CREATE)
    create_locked(backend, volume, row)
    _update(snapshot, volume)


def create_locked(backend: Backend, volume: objects.Volume,
                  snapshot: objects.Snapshot) -> None:
    """Take a snapshot of a volume that is fresh, locked and in order."""
    operations = guests.settled(backend, volume, snapshot=snapshot)
    try:
        native(operations.create, snapshot.id,
               backend.configuration.assisted_quiesce)
    except errors.SnapshotExists:
        LOG.info('Snapshot %s was begun before a crash, and is there.',
                 snapshot.id)
    attachments.in_step(backend, volume, operations)


def delete(backend: Backend, snapshot: objects.Snapshot) -> None:
    """Delete a snapshot; what stands in the way becomes its metadata."""
    try:
        with backend.locked(snapshot.volume_id):
            with failures.translated_delete():
                _delete(backend, fresh_row(backend, snapshot))
    except (exception.SnapshotIsBusy,
            exception.VolumeBackendAPIException) as exc:
        LOG.warning('Snapshot %s stays: %s', snapshot.id, exc)
        reasons.note(backend.context(), snapshot, str(exc))
        raise


def _delete(backend: Backend, snapshot: objects.Snapshot) -> None:
    volume = backend.fresh_by_id(snapshot.volume_id)
    if not volume.provider_location:
        return  # it was never made, so nothing of it can be left
    if is_gone(backend, volume, snapshot.id):
        LOG.info('%s has no snapshot %s any more.', volume.name, snapshot.id)
        return
    check_state(volume, 'deleting a snapshot', _DELETE)
    delete_locked(backend, volume, snapshot)


def delete_locked(backend: Backend, volume: objects.Volume,
                  snapshot: objects.Snapshot) -> None:
    """Delete a snapshot of a volume that is fresh, locked and in order."""
    if native(_is_unknown, backend.files(volume), snapshot.id):
        return  # its creation failed; what else is unfinished may wait
    backend.driver.views.drop_snapshot(snapshot)
    operations = guests.settled(backend, volume, snapshot=snapshot)
    if native(_is_orphaned, backend.files(volume), snapshot.id):
        # After a merge upwards a layer has the name of what is gone.
        with suppress(errors.SnapshotExists):
            native(operations.remove_orphan, snapshot.id)
    try:
        native(operations.delete, snapshot.id)
    except errors.SnapshotNotFound:
        LOG.info('%s has no snapshot %s any more, and no file of it.',
                 volume.name, snapshot.id)
    attachments.in_step(backend, volume, operations)


def revert(backend: Backend, volume: objects.Volume,
           snapshot: objects.Snapshot) -> None:
    """Bring a detached volume back to its newest snapshot."""
    with backend.locked(volume.id), failures.translated():
        fresh = backend.fresh(volume)
        check_state(fresh, 'reverting', _REVERT)
        operations = guests.settled(backend, fresh)
        native(operations.revert, snapshot.id)
        attachments.in_step(backend, fresh, operations)
        _update(snapshot, fresh)


def check_enabled(backend: Backend) -> None:
    """Refuse to take a snapshot where upstream's option is off.

    :raises SnapshotsDisabled: it is.
    """
    if not backend.option('snapshot_support', True):
        raise failures.SnapshotsDisabled(
            option=f'{backend.prefix}_snapshot_support')


def check_state(volume: objects.Volume, action: str,
                wanted: tuple[str, ...]) -> None:
    """Refuse a volume that Cinder is doing something else with.

    :raises WrongState: it is in another state.
    """
    if volume.status not in wanted:
        raise failures.WrongState(volume=volume.id, status=volume.status,
                                  action=action, wanted=', '.join(wanted))


def is_gone(backend: Backend, volume: objects.Volume,
            snapshot_id: str) -> bool:
    """Tell whether a whole chain has nothing of a snapshot any more.

    Whatever forbids a deletion now, it must not call such a snapshot usable
    again.

    :param volume: fresh, and locked.
    """
    return native(_has_nothing_of, backend.operations(volume),
                  backend.files(volume), snapshot_id)


def _has_nothing_of(operations: Operations, files: VolumeFiles,
                    snapshot_id: str) -> bool:
    try:
        state = operations.state()
    except errors.ChainError:
        return False
    # After a merge upwards a layer has the name of what is gone.
    name = files.overlay(snapshot_id)
    return snapshot_id not in state.snapshots and (
        name in state.chain.names or not files.path(name).exists())


def _is_unknown(files: VolumeFiles, snapshot_id: str) -> bool:
    """Tell a snapshot that a volume in mid-operation has nothing of."""
    store = Store(files)
    try:
        journal, info = store.read_journal(), store.read_info() or {}
    except errors.ChainError:
        return False
    return (journal is not None and journal.operation is not None
            and journal.operation.subject != snapshot_id
            and snapshot_id not in {**journal.snapshots, **info}
            and not files.path(files.overlay(snapshot_id)).exists())


def _is_orphaned(files: VolumeFiles, snapshot_id: str) -> bool:
    """Tell whether a snapshot has an overlay, but .info does not know it."""
    info = Store(files).read_info() or {}
    name = files.overlay(snapshot_id)
    return (snapshot_id not in info and name not in info.values()
            and files.path(name).exists())


def fresh_row(backend: Backend,
              snapshot: objects.Snapshot) -> objects.Snapshot:
    """Return the snapshot as the database has it now.

    :raises SnapshotNotFound: another request has deleted it meanwhile.
    """
    # It keeps the user's token and catalogue, which Nova may be asked with.
    row = objects.Snapshot.get_by_id(snapshot.obj_context.elevated(),
                                     snapshot.id)
    if row.status == fields.SnapshotStatus.DELETED:
        raise exception.SnapshotNotFound(snapshot_id=snapshot.id)
    return row


def _update(snapshot: objects.Snapshot, volume: objects.Volume) -> None:
    """Let the object in hand know what its volume's records are now."""
    if snapshot.obj_attr_is_set('volume'):
        held = snapshot.volume
        if held.obj_attr_is_set('admin_metadata'):
            held.admin_metadata = dict(volume.admin_metadata)
            held.obj_reset_changes(['admin_metadata'])
