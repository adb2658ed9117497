# SPDX-License-Identifier: Apache-2.0
"""Groups of volumes: made, copied and deleted member by member.

Cinder's own fallback forgets a member that could not be deleted: it drops
the row, and the files stay.  Here such a member keeps its row, and the
group, or the group snapshot, becomes an error that can be deleted again.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from cinder import exception
from cinder import objects
from cinder.context import RequestContext
from oslo_log import log as logging

from assisted_snapshots.cinder_driver import locks

LOG = logging.getLogger(__name__)

Update = dict[str, Any]
Updates = tuple[Update, list[Update]]

_FAILED = 'error_deleting'


class GroupLife:
    """The methods of groups that need nothing but those of volumes."""

    create_volume_from_snapshot: Callable[..., Update]
    create_cloned_volume: Callable[..., Update]
    delete_volume: Callable[[objects.Volume], None]
    delete_snapshot: Callable[[objects.Snapshot], None]

    def create_group(self, context: RequestContext,
                     group: objects.Group) -> Update:
        """Make an empty group; there is nothing of it on a share."""
        return {'status': 'available'}

    def update_group(self, context: RequestContext, group: objects.Group,
                     add_volumes: Any = None, remove_volumes: Any = None
                     ) -> tuple[None, None, None]:
        """Let volumes join or leave; there is nothing to be done."""
        return None, None, None

    def create_group_from_src(
            self, context: RequestContext, group: objects.Group,
            volumes: Sequence[objects.Volume],
            group_snapshot: Any = None, snapshots: Any = None,
            source_group: Any = None, source_vols: Any = None) -> Updates:
        """Make the volumes of a group of another one, or of its snapshot.

        The sources come in the order of the volumes.
        """
        make = (self.create_volume_from_snapshot if snapshots
                else self.create_cloned_volume)
        return {'status': 'available'}, [
            {'id': volume.id, 'status': 'available', **make(volume, source)}
            for volume, source in zip(volumes, snapshots or source_vols or (),
                                      strict=True)]

    def delete_group(self, context: RequestContext, group: objects.Group,
                     volumes: Sequence[objects.Volume]) -> Updates:
        """Delete a group's volumes; one that is busy stays available."""
        return _delete_all(volumes, self.delete_volume,
                           exception.VolumeIsBusy, _FAILED)

    def delete_group_snapshot(self, context: RequestContext,
                              group_snapshot: objects.GroupSnapshot,
                              snapshots: Sequence[objects.Snapshot]
                              ) -> Updates:
        """Delete the snapshots of a group; one that is busy stays available.

        If one stays, the rows of those that went are left in ``deleting``,
        where recovery finds them and has them removed.
        """
        # Recovery would take a member that has gone for abandoned while the
        # next one is merged, and quota would be counted twice.
        with locks.deletion(*(snapshot.id for snapshot in snapshots)):
            return _delete_all(snapshots, self.delete_snapshot,
                               exception.SnapshotIsBusy, 'deleting')


def _delete_all(members: Sequence[Any], delete: Callable[[Any], None],
                busy: type[Exception], gone: str) -> Updates:
    """Delete every member that can be.

    :param gone: status of a member that went where another one stays.
    """
    found = {member.id: _delete(member, delete, busy) for member in members}
    if all(status == 'deleted' for status in found.values()):
        return {'status': 'deleted'}, [
            {'id': one, 'status': status} for one, status in found.items()]
    return {'status': _FAILED}, [
        {'id': one, 'status': gone if status == 'deleted' else status}
        for one, status in found.items()]


def _delete(member: Any, delete: Callable[[Any], None],
            busy: type[Exception]) -> str:
    try:
        delete(member)
    except exception.SnapshotNotFound:
        return 'deleted'
    except busy:
        return 'available'
    except Exception:
        LOG.exception('%s could not be deleted with its group.', member.id)
        return _FAILED
    return 'deleted'
