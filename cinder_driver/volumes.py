# SPDX-License-Identifier: Apache-2.0
"""Volumes: create, copy, extend, delete.

Where a volume is and which format it has is written down before a file is
made, so that after a crash the file is found and removed with the volume,
and no format is ever open to doubt.  A copy is made by ``chain.Operations``,
which lets it appear complete or not at all.  This module must never leave a
file of a volume that could not be made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cinder import objects
from oslo_log import log as logging
from oslo_utils import excutils
from oslo_utils import units

from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import attachments
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver import metadata
from assisted_snapshots.cinder_driver import secrets
from assisted_snapshots.cinder_driver import shares
from assisted_snapshots.cinder_driver import snapshots
from assisted_snapshots.cinder_driver import temporary
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.backend import size_bytes
from assisted_snapshots.cinder_driver.native import native

LOG = logging.getLogger(__name__)

_FROM_SNAPSHOT = ('available', 'backing-up', 'restoring')
_CLONE = ('available', 'backing-up', 'downloading', 'in-use')

Update = dict[str, str]


def create(backend: Backend, volume: objects.Volume) -> Update:
    """Make an empty volume."""
    secrets.check(backend.context(), volume)
    with backend.locked(volume.id), failures.translated():
        backend.driver._ensure_shares_mounted()
        share = backend.driver._find_share(volume)
        form = backend.wanted_format(volume)
        with _placed(backend, volume, share, form) as files:
            native(shares.make, files, form, size_bytes(volume),
                   backend.mode(), secret=backend.secret(volume),
                   sparse=bool(backend.option('sparsed_volumes', True)))
    return {'provider_location': share}


def create_from_snapshot(backend: Backend, volume: objects.Volume,
                         snapshot: objects.Snapshot) -> Update:
    """Make a volume of a snapshot's content, of the size asked for."""
    if snapshot.status not in _FROM_SNAPSHOT:
        raise failures.NotReady(snapshot=snapshot.id,
                                status=snapshot.status)
    with (backend.locked(snapshot.volume_id, volume.id),
          failures.translated()):
        source = backend.fresh_by_id(snapshot.volume_id)
        return _copy(backend, source, snapshot.id, volume)


def clone(backend: Backend, volume: objects.Volume,
          source: objects.Volume) -> Update:
    """Make a volume of another one's current content."""
    with backend.locked(source.id, volume.id), failures.translated():
        fresh = backend.fresh(source)
        snapshots.check_state(fresh, 'cloning', _CLONE)
        if guests.attachment_of(backend, fresh) is None:
            return _copy(backend, fresh, None, volume)
        snapshots.check_enabled(backend)
        with temporary.snapshot_for(backend, fresh, volume) as snapshot:
            return _copy(backend, backend.fresh(fresh), snapshot.id, volume)


def _copy(backend: Backend, source: objects.Volume, snapshot_id: str | None,
          volume: objects.Volume) -> Update:
    """Copy what a snapshot of a locked volume, or the volume, shows."""
    if source.encryption_key_id and not volume.encryption_key_id:
        raise failures.NotEncrypted(volume=volume.id, source=source.id)
    secrets.check(backend.context(), volume)
    operations = guests.settled(backend, source, at_rest=True)
    share = backend.driver.share_for_copy(volume, source.provider_location)
    form = backend.wanted_format(volume)
    with _placed(backend, volume, share, form) as files:
        native(operations.clone, snapshot_id, files.base, form,
               size_bytes(volume), target_secret=backend.secret(volume))
        native(shares.set_modes, files, backend.mode())
    return {'provider_location': share}


@contextmanager
def _placed(backend: Backend, volume: objects.Volume, share: str,
            form: Format) -> Iterator[VolumeFiles]:
    """Write down where a volume will be; remove it if it cannot be made."""
    volume.provider_location = share
    with volume.obj_as_admin():
        volume.admin_metadata[metadata.FORMAT] = str(form)
        volume.save()
    files = backend.files(volume)
    LOG.info('Volume %s is made as a %s file on %s.', volume.id, form, share)
    # What an earlier attempt has left under this id is nobody's.
    native(shares.remove, files, volume.id)
    try:
        yield files
    except Exception:
        with excutils.save_and_reraise_exception():
            native(shares.remove, files, volume.id)


def extend(backend: Backend, volume: objects.Volume, size_gb: int) -> None:
    """Let a volume grow, and tell its guest; snapshots keep their size.

    Whatever fails, the manager calls the volume ``error_extending``; the
    journal knows whether something is left to do.
    """
    with backend.locked(volume.id), failures.translated_extend():
        fresh = backend.fresh(volume)
        operations = guests.settled(backend, fresh)
        backend.driver.check_room(fresh, (size_gb - fresh.size) * units.Gi)
        native(operations.extend, size_gb * units.Gi)
        attachments.in_step(backend, fresh, operations)


def delete(backend: Backend, volume: objects.Volume) -> None:
    """Remove every file of a volume.

    Killed anywhere, the volume is still in ``deleting`` or can be deleted
    again, which finishes it.
    """
    if not volume.provider_location:
        LOG.warning('Volume %s has no share, so it has no file.', volume.id)
        return
    backend.driver._ensure_share_mounted(volume.provider_location)
    with backend.locked(volume.id), failures.translated():
        left = objects.SnapshotList.get_all_for_volume(backend.context(),
                                                       volume.id)
        if left:
            raise failures.SnapshotsLeft(volume=volume.id, count=len(left))
        backend.driver.views.drop(volume)
        native(shares.remove, backend.files(volume), volume.id)
