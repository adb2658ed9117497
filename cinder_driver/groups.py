# SPDX-License-Identifier: Apache-2.0
"""Snapshots of several volumes that belong together.

Those that one guest has, and whose agent answers, are taken in one
transaction; the others one after the other.  It is all or nothing: if one
cannot be taken, those that were are deleted again.  Killed in between, the
volumes are in order each for itself (``chain.together``), the snapshots
that are there can be deleted, and the manager calls the group's an error.

This module must never call snapshots consistent that were taken one after
the other while somebody wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

from cinder import objects
from cinder.volume import volume_utils
from oslo_log import log as logging

from assisted_snapshots.chain.operations import create_together
from assisted_snapshots.cinder_driver import attachments
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver import snapshots
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import native
from assisted_snapshots.rpcapi.messages import SnapshotDisk

LOG = logging.getLogger(__name__)

Update = dict[str, Any]
# A string: Cinder's objects may not be registered yet.
_Part: TypeAlias = 'tuple[objects.Volume, objects.Snapshot]'
_Set = tuple[guests.AgentSide | None, list[_Part]]


class NotConsistent(failures.Refused):
    """The group's type promises what cannot be kept."""

    message = ('group snapshot %(group)s has to be consistent, but %(count)s '
               'of its volumes are written to by others than one guest with '
               'an agent; no snapshot was taken')


def create_group_snapshot(backend: Backend,
                          group_snapshot: objects.GroupSnapshot,
                          taken: Sequence[objects.Snapshot]
                          ) -> tuple[Update, list[Update]]:
    """Take the snapshots of a group snapshot, all or none."""
    snapshots.check_enabled(backend)
    ids = sorted(snapshot.volume_id for snapshot in taken)
    with backend.locked(*ids), failures.translated():
        parts = [_part(backend, snapshot) for snapshot in taken]
        sets = _sets(backend, parts)
        _check(group_snapshot, sets)
        done: list[_Part] = []
        try:
            for side, members in sets:
                _take(backend, side, members)
                done += members
        except Exception:
            _undo(backend, done)
            raise
    return {'status': 'available'}, [
        {'id': snapshot.id, 'status': 'available', 'progress': '100%'}
        for snapshot in taken]


def _part(backend: Backend, snapshot: objects.Snapshot) -> _Part:
    row = snapshots.fresh_row(backend, snapshot)
    volume = backend.fresh_by_id(row.volume_id)
    snapshots.check_state(volume, 'taking a snapshot', snapshots.CREATE)
    return volume, row


def _sets(backend: Backend, parts: Sequence[_Part]) -> list[_Set]:
    """Return what can be taken in one transaction each."""
    found: dict[str, _Set] = {}
    for volume, snapshot in parts:
        attachment = guests.attachment_of(backend, volume)
        side = guests.side_for(backend, volume, snapshot=snapshot)
        if attachment and isinstance(side, guests.AgentSide):
            _, members = found.setdefault(attachment.instance_uuid,
                                          (side, []))
        else:
            _, members = found.setdefault(snapshot.id, (None, []))
        members.append((volume, snapshot))
    return list(found.values())


def _check(group_snapshot: objects.GroupSnapshot,
           sets: Sequence[_Set]) -> None:
    """Refuse what the type of a group promises and cannot be.

    Volumes that nobody writes to are consistent with everything.
    """
    written = [[volume for volume, _ in members
                if volume.attach_status == 'attached']
               for _, members in sets]
    busy = [volumes for volumes in written if volumes]
    if len(busy) > 1 and volume_utils.is_group_a_cg_snapshot_type(
            group_snapshot):
        raise NotConsistent(group=group_snapshot.id,
                            count=sum(map(len, busy)))


def _take(backend: Backend, side: guests.AgentSide | None,
          members: Sequence[_Part]) -> None:
    if side is None or len(members) == 1:
        volume, snapshot = members[0]
        snapshots.create_locked(backend, volume, snapshot)
        return
    operations = [guests.settled(backend, volume, snapshot=snapshot)
                  for volume, snapshot in members]
    serials = {backend.files(volume).id: str(volume.id)
               for volume, _ in members}

    def create_all(disks: tuple[tuple[str, str, str], ...],
                   quiesce: str) -> str:
        return side.create_all(tuple(
            SnapshotDisk(serials[volume], snapshot, overlay)
            for volume, snapshot, overlay in disks), quiesce)

    consistency = native(
        create_together,
        [(one, snapshot.id) for one, (_, snapshot)
         in zip(operations, members, strict=True)],
        create_all, backend.configuration.assisted_quiesce)
    LOG.info('%d snapshots were taken at one moment, %s.', len(members),
             consistency)
    for one, (volume, _) in zip(operations, members, strict=True):
        attachments.in_step(backend, volume, one)


def _undo(backend: Backend, done: Sequence[_Part]) -> None:
    """Delete what was taken; what stays can be deleted by the user."""
    for volume, snapshot in done:
        try:
            snapshots.delete_locked(backend, backend.fresh(volume), snapshot)
        except Exception:
            LOG.exception('Snapshot %s of a group snapshot that failed '
                          'stays.', snapshot.id)
