# SPDX-License-Identifier: Apache-2.0
"""Rows whose status promises work that nobody does any more.

What is true is what the chain says; a status only tells which rows to look
at.  This module must never touch a layer: it changes rows, or asks the
volume manager once more for what is its own to do: a row to be removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
import time
from typing import Any

from cinder import compute
from cinder import exception
from cinder import objects
from cinder import quota
from cinder.db import api as db
from cinder.message import api as message_api
from cinder.message import message_field
from cinder.objects import fields
from cinder.volume import rpcapi
from oslo_log import log as logging

from assisted_snapshots.chain.qcow2 import mapped
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.cinder_driver import attachments
from assisted_snapshots.cinder_driver import reasons
from assisted_snapshots.cinder_driver import temporary
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import native
from assisted_snapshots.cinder_driver.peers import free
from assisted_snapshots.cinder_driver.peers import old
from assisted_snapshots.cinder_driver.peers import Peers

LOG = logging.getLogger(__name__)

_Status = fields.SnapshotStatus

# Snapshots and volumes that are looked at.
_SNAPSHOTS = (_Status.CREATING, _Status.DELETING)
_VOLUMES = ('extending', 'error_extending', 'reverting')

# What a snapshot may be called while its creation (deletion) is in flight;
# its project may have changed it.
_CREATION = (_Status.CREATING, _Status.AVAILABLE, _Status.ERROR)
_EXTENSION = ('extending', 'error_extending')
_DELETION = (_Status.DELETING, _Status.ERROR_DELETING, _Status.AVAILABLE)

# Seconds until the manager is asked again.
_AGAIN = 10.0

_GIB = 1 << 30


class Settling:
    """Brings rows in step with the chain; called with the volume locked."""

    def __init__(self, backend: Backend, peers: Peers) -> None:
        self._backend = backend
        self._peers = peers
        self._asked: dict[str, float] = {}

    def volumes(self) -> set[str]:
        """Return the ids of volumes with such rows."""
        context = self._backend.context()
        # Cinder takes a status beside a host for that of the volume.
        found = {snapshot.volume_id for status in _SNAPSHOTS
                 for snapshot in objects.SnapshotList.get_all(
                     context, {'status': status})
                 if self._peers.owns(snapshot.volume)}
        found |= {snapshot.volume_id for snapshot
                  in objects.SnapshotList.get_all(context,
                                                  {'use_quota': False})
                  if temporary.is_temporary(snapshot)
                  and self._peers.owns(snapshot.volume)}
        for status in _VOLUMES:
            found |= {volume.id for volume in objects.VolumeList.get_all(
                context, filters={'status': status})
                if self._peers.owns(volume)}
        return found

    def settle(self, volume: Any, ended: Operation | None
               ) -> tuple[list[str], bool]:
        """Settle the rows of one volume.

        :param ended: the operation that has just been finished or undone.
        :returns: a sentence for each row changed, and whether something
            is left to be looked at again.
        """
        found = objects.SnapshotList.get_all_for_volume(
            self._backend.context(), volume.id)
        left = any(temporary.is_temporary(snapshot) for snapshot in found)
        snapshots = [snapshot for snapshot in found
                     if not temporary.is_temporary(snapshot)
                     and (snapshot.status in _SNAPSHOTS
                          or ended and snapshot.id == ended.subject)]
        if not (snapshots or volume.status in _VOLUMES) \
                or not volume.provider_location:
            return [], left
        state = native(self._backend.operations(volume).state)
        self._backend.note(volume, state)
        attachments.point(self._backend, volume, state)
        told: list[str] = []
        for outcome in self._outcomes(volume, state, snapshots, ended):
            left = left or outcome is None
            told += [outcome] if outcome else []
        return told, left

    def _outcomes(self, volume: Any, state: VolumeState,
                  snapshots: list[Any], ended: Operation | None
                  ) -> Iterator[str | None]:
        """Yield what was done; empty for nothing, None for not yet."""
        for snapshot in snapshots:
            sure = bool(ended and ended.subject == snapshot.id
                        and ended.kind in ('create', 'delete'))
            kind = ended.kind if ended and sure else snapshot.status
            there = snapshot.id in state.snapshots
            if kind in ('create', _Status.CREATING):
                yield self._created(volume, snapshot, there, sure)
            elif kind in ('delete', _Status.DELETING):
                told = self._deleted(volume, snapshot, there, sure)
                yield told
                if told and not there:
                    yield None  # until the manager has done its part
        if volume.status in _EXTENSION:
            yield self._extended(volume, state, ended)
        elif volume.status == 'reverting':
            yield self._reverted(volume, state, ended)

    def _created(self, volume: Any, snapshot: Any, there: bool,
                 sure: bool) -> str | None:
        if not sure and not self._peers.abandoned(snapshot):
            return ''
        values = ({'status': _Status.AVAILABLE, 'progress': '100%'}
                  if there else {'status': _Status.ERROR})
        context = self._backend.context()
        if there and volume.bootable:
            # Before anybody can make a volume of it.
            _copy_image_metadata(context, snapshot)
        said = ''
        if snapshot.status != values['status'] and _change(
                snapshot, values, _CREATION):
            said = f'snapshot {snapshot.id} is {values["status"]}'
        if there:
            reasons.forget(context, snapshot)
        self._peers.forget(snapshot)
        return said

    def _deleted(self, volume: Any, snapshot: Any, there: bool,
                 sure: bool) -> str | None:
        if volume.status == 'deleting':
            return ''  # the volume's own deletion goes on with it
        if not free(f'{snapshot.id}-delete_snapshot'):
            return ''
        if there:
            return self._not_deleted(snapshot)
        if not sure and snapshot.status != _Status.DELETING:
            return ''
        return self._ask_manager(snapshot)

    def _not_deleted(self, snapshot: Any) -> str | None:
        """Say that a snapshot is there; its deletion was never begun.

        The request may still be in the queue, so this waits a while.
        """
        if not old(snapshot):
            return None
        if not _change(snapshot, {'status': _Status.AVAILABLE},
                       (_Status.DELETING,)):
            return ''
        context = self._backend.context()
        context.project_id = snapshot.project_id
        message_api.API().create(
            context, action=message_field.Action.SNAPSHOT_DELETE,
            resource_type=message_field.Resource.VOLUME_SNAPSHOT,
            resource_uuid=snapshot.id,
            exception=exception.SnapshotIsBusy(snapshot_name=snapshot.name))
        return (f'the deletion of snapshot {snapshot.id} was not begun; it '
                f'is available')

    def _ask_manager(self, snapshot: Any) -> str | None:
        """Have the manager do what is left: the row, and its quota.

        It holds the lock of the deletion meanwhile, and the driver tells a
        second one that the row is gone, so that quota is counted once.
        """
        if not self._due(snapshot.id):
            return None
        if snapshot.status != _Status.DELETING and not _change(
                snapshot, {'status': _Status.DELETING}, _DELETION):
            return ''
        rpcapi.VolumeAPI().delete_snapshot(self._backend.context(), snapshot)
        return (f'snapshot {snapshot.id} is deleted; the manager is asked '
                f'for its row')

    def _extended(self, volume: Any, state: VolumeState,
                  ended: Operation | None) -> str | None:
        """End an extension: as the manager does, if the chain has grown.

        The manager of a service that lives may be about to do the same.  One
        that failed may have come about later, when a guest was silent.
        """
        size = -(-state.chain.virtual_size // _GIB)
        if volume.status != 'extending' and size <= volume.size:
            return ''
        if not (ended or old(volume)):
            return None
        if size > volume.size:
            return self._grown(volume, size)
        status = _idle(volume)
        _change(volume, {'status': status}, ('extending',))
        return f'it was not extended; it is {status}'

    def _grown(self, volume: Any, size: int) -> str:
        """Note a growth; only one service can, so quota counts it once."""
        context = self._backend.context()
        reserved = _reserve(context, volume, size)
        won = _change(volume, {'size': size, 'status': _idle(volume)},
                      _EXTENSION)
        end = quota.QUOTAS.commit if won else quota.QUOTAS.rollback
        end(context, reserved, project_id=volume.project_id)
        if won:
            _tell_nova(context, volume)
        return f'it was extended to {size} GiB' if won else ''

    def _reverted(self, volume: Any, state: VolumeState,
                  ended: Operation | None) -> str | None:
        """End a revert; the snapshot is kept in any case."""
        if not (ended or old(volume)):
            return None
        path = self._backend.files(volume).path(state.chain.active.name)
        same = native(lambda: next(iter(mapped(path)), None) is None)
        status = 'available' if same and state.snapshots else 'error'
        for snapshot in objects.SnapshotList.get_all_for_volume(
                self._backend.context(), volume.id):
            _change(snapshot, {'status': _Status.AVAILABLE},
                    (_Status.RESTORING,))
        _change(volume, {'status': status}, ('reverting',))
        return f'after the revert it is {status}'

    def _due(self, key: str) -> bool:
        """Tell whether the manager may be asked (again) about something."""
        now = time.monotonic()
        if now - self._asked.get(key, now - _AGAIN) < _AGAIN:
            return False
        self._asked[key] = now
        return True


def _change(row: Any, values: dict[str, Any],
            expected: tuple[str, ...]) -> bool:
    """Change a row, unless somebody else has changed its status."""
    return bool(row.conditional_update(values, {'status': expected}))


def _idle(volume: Any) -> str:
    """Return the status of a volume that nothing is done with."""
    return 'in-use' if volume.volume_attachment else 'available'


def _tell_nova(context: Any, volume: Any) -> None:
    """Tell the servers that have a volume, as the manager would have."""
    servers = [attachment.instance_uuid
               for attachment in volume.volume_attachment
               if attachment.instance_uuid]
    if not servers:
        return
    try:
        compute.API().extend_volume(context, servers, volume.id)
    except Exception:  # the guest knows; it is only Nova's record
        LOG.exception('Nova was not told of the size of volume %s.',
                      volume.id)


def _reserve(context: Any, volume: Any, size: int) -> Any:
    """Reserve the growth; what was reserved before the crash expires."""
    wanted = {'gigabytes': size - volume.size}
    quota.QUOTAS.add_volume_type_opts(context, wanted, volume.volume_type_id)
    try:
        return quota.QUOTAS.reserve(context, project_id=volume.project_id,
                                    **wanted)
    except exception.OverQuota:
        return []  # the file has grown, whatever the quota says


def _copy_image_metadata(context: Any, snapshot: Any) -> None:
    """Do for a bootable volume's snapshot what the manager does, once."""
    try:
        db.volume_snapshot_glance_metadata_get(context, snapshot.id)
    except exception.GlanceMetadataNotFound:
        with suppress(exception.GlanceMetadataNotFound):
            db.volume_glance_metadata_copy_to_snapshot(
                context, snapshot.id, snapshot.volume_id)
