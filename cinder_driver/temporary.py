# SPDX-License-Identifier: Apache-2.0
"""A snapshot that lives only as long as the copy of a volume in use.

It has a row as upstream's has, because an unmodified Nova answers by it; it
counts for no quota.  The source's lock is held from before its row is made
until after it has gone.  So whoever holds that lock and finds such a row
may remove it: its maker is dead, or could not, and :func:`sweep` does what
is left.  Killed anywhere, that is the repair; the copy is the manager's.
For an upload the volume's status stands in for the lock.

This module must never remove a snapshot that a user has taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress

from cinder import exception
from cinder import objects
from cinder.objects import fields
from oslo_log import log as logging

from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import snapshots
from assisted_snapshots.cinder_driver.backend import Backend

LOG = logging.getLogger(__name__)

_Status = fields.SnapshotStatus

# Of a volume that Cinder says is uploading.
_UPLOAD = f'{snapshots.TEMPORARY}upload-'


@contextmanager
def snapshot_for(backend: Backend, source: objects.Volume,
                 volume: objects.Volume) -> Iterator[objects.Snapshot]:
    """Take a snapshot of a volume to copy it.

    :param source: fresh, and locked.
    :param volume: what is made of it.
    """
    row = _row(backend, source, volume, f'{snapshots.TEMPORARY}{volume.id}')
    try:
        snapshots.create_locked(backend, source, row)
        yield row
    finally:
        _remove(backend, source, row)


@contextmanager
def snapshot_of_upload(backend: Backend, volume: objects.Volume,
                       ) -> Iterator[objects.Snapshot]:
    """Take a snapshot of a volume in use to upload it.

    An upload takes long, so the lock is held only at both ends: while the
    volume is ``uploading``, the snapshot belongs to who took it.

    :param volume: as it was given, and not locked.
    """
    row = _row(backend, volume, volume, f'{_UPLOAD}{volume.id}')
    try:
        with backend.locked(volume.id), failures.translated():
            snapshots.create_locked(backend, backend.fresh(volume), row)
        row.status = _Status.AVAILABLE
        row.save()
        yield row
    finally:
        # Whoever reset the status meanwhile has had it swept.
        with backend.locked(volume.id), suppress(exception.SnapshotNotFound):
            _remove(backend, volume, row)


def _row(backend: Backend, source: objects.Volume, volume: objects.Volume,
         name: str) -> objects.Snapshot:
    row = objects.Snapshot(
        backend.context(), volume_id=source.id, status=_Status.CREATING,
        progress='0%', volume_size=source.size, use_quota=False,
        user_id=volume.user_id, project_id=volume.project_id,
        display_name=name, volume_type_id=source.volume_type_id,
        encryption_key_id=source.encryption_key_id)
    row.create()
    # Nova has to be asked with the user's own catalogue.
    row._context = volume.obj_context
    return row


def sweep(backend: Backend, source: objects.Volume) -> list[str]:
    """Remove temporary snapshots that are left of a volume.

    :param source: fresh, and locked.
    :returns: a sentence for each that is gone.
    """
    return [f'temporary snapshot {row.id} is removed'
            for row in objects.SnapshotList.get_all_for_volume(
                backend.context(), source.id)
            if is_temporary(row) and not _uploads(source, row)
            and _remove(backend, source, row)]


def is_temporary(snapshot: objects.Snapshot) -> bool:
    """Tell one of ours: no user's snapshot is kept out of the quota."""
    name = snapshot.display_name or ''
    return name.startswith(snapshots.TEMPORARY) and not snapshot.use_quota


def _uploads(source: objects.Volume, row: objects.Snapshot) -> bool:
    """Tell whether an upload still needs a snapshot."""
    return (source.status == 'uploading'
            and str(row.display_name).startswith(_UPLOAD))


def _remove(backend: Backend, source: objects.Volume,
            row: objects.Snapshot) -> bool:
    """Delete a temporary snapshot and its row; False if it has to wait."""
    row.status = _Status.DELETING
    row.save()
    try:
        snapshots.delete_locked(backend, backend.fresh(source), row)
    except (*failures.OURS, failures.Refused) as exc:
        LOG.warning('Temporary snapshot %s of volume %s stays for now: %s',
                    row.id, source.id, exc)
        return False
    with row.obj_as_admin():
        row.destroy()
    return True
