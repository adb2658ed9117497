# SPDX-License-Identifier: Apache-2.0
"""Snapshots for any driver that stands on Cinder's RemoteFS driver.

Put :class:`AssistedSnapshots` before the driver's own class.  It takes over
every method that touches a chain; mounting, choosing a share and the
options stay the driver's.  Methods here are thin: each hands over to the
module that knows.  None may take a lock twice, because Cinder's locks are
not reentrant.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from cinder import objects
from cinder.context import RequestContext

from assisted_snapshots.cinder_driver import connections
from assisted_snapshots.cinder_driver import groups
from assisted_snapshots.cinder_driver import locks
from assisted_snapshots.cinder_driver import manage
from assisted_snapshots.cinder_driver import migrated
from assisted_snapshots.cinder_driver import options
from assisted_snapshots.cinder_driver import permissions
from assisted_snapshots.cinder_driver import snapshots
from assisted_snapshots.cinder_driver import volumes
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.capacity import Capacity
from assisted_snapshots.cinder_driver.data_path import DataPath
from assisted_snapshots.cinder_driver.group_life import GroupLife
from assisted_snapshots.cinder_driver.recovery import Recovery
from assisted_snapshots.cinder_driver.views import Views

Update = dict[str, Any]


class AssistedSnapshots(DataPath, GroupLife, Capacity):
    """Everything that touches a chain.

    The driver beside it provides ``driver_prefix``, ``shares``,
    ``_ensure_shares_mounted``, ``_ensure_share_mounted``, ``_find_share``,
    ``_is_share_eligible``, ``_get_mount_point_for_share`` and
    ``_get_mount_point_base``, as Cinder's RemoteFS drivers do.
    """

    SUPPORTS_ACTIVE_ACTIVE = True

    configuration: Any
    driver_prefix: str
    _stats: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(options.driver_opts)
        self.backend = Backend(self)
        self.views = Views(self.backend)
        self.recovery = Recovery(self.backend)

    def do_setup(self, context: RequestContext) -> None:
        """Mount the shares, and end what an earlier run has left."""
        super().do_setup(context)  # type: ignore[misc]
        permissions.check(self.backend)
        self.recovery.start()

    def create_volume(self, volume: objects.Volume) -> Update:
        """Make an empty volume."""
        return volumes.create(self.backend, volume)

    def delete_volume(self, volume: objects.Volume) -> None:
        """Remove every file of a volume."""
        volumes.delete(self.backend, volume)

    def extend_volume(self, volume: objects.Volume, new_size: int) -> None:
        """Let a volume grow, with snapshots or without, in use or not."""
        volumes.extend(self.backend, volume, int(new_size))

    def create_volume_from_snapshot(self, volume: objects.Volume,
                                    snapshot: objects.Snapshot) -> Update:
        """Make a volume of a snapshot; it may be larger."""
        return volumes.create_from_snapshot(self.backend, volume, snapshot)

    def create_cloned_volume(self, volume: objects.Volume,
                             src_vref: objects.Volume) -> Update:
        """Make a volume of another one; it may be larger."""
        return volumes.clone(self.backend, volume, src_vref)

    def create_snapshot(self, snapshot: objects.Snapshot) -> None:
        """Take a snapshot."""
        snapshots.create(self.backend, snapshot)

    def delete_snapshot(self, snapshot: objects.Snapshot) -> None:
        """Delete a snapshot, whatever is above or below it."""
        snapshots.delete(self.backend, snapshot)

    def create_group_snapshot(self, context: RequestContext,
                              group_snapshot: objects.GroupSnapshot,
                              snapshots: list[objects.Snapshot]
                              ) -> tuple[Update, list[Update]]:
        """Take snapshots of several volumes, all or none."""
        return groups.create_group_snapshot(self.backend, group_snapshot,
                                            snapshots)

    def revert_to_snapshot(self, context: RequestContext,
                           volume: objects.Volume,
                           snapshot: objects.Snapshot) -> None:
        """Bring a detached volume back to its newest snapshot."""
        snapshots.revert(self.backend, volume, snapshot)

    def manage_existing(self, volume: objects.Volume,
                        existing_ref: Mapping[str, str]) -> Update:
        """Make a volume of a file that is on a share."""
        return manage.manage(self.backend, volume, existing_ref)

    def manage_existing_get_size(self, volume: objects.Volume,
                                 existing_ref: Mapping[str, str]) -> int:
        """Return the size in GiB that a file would have as a volume."""
        return manage.size_of(self.backend, existing_ref)

    def unmanage(self, volume: objects.Volume) -> None:
        """Leave the volume's file to the operator."""
        manage.unmanage(self.backend, volume)

    def get_manageable_volumes(self, cinder_volumes: Iterable[objects.Volume],
                               marker: Any, limit: Any, offset: Any,
                               sort_keys: Any, sort_dirs: Any) -> Any:
        """Return the files on the shares that are or could be volumes."""
        return manage.page(manage.manageable(self.backend, cinder_volumes),
                           marker, limit, offset, sort_keys, sort_dirs)

    def update_migrated_volume(self, ctxt: RequestContext,
                               volume: objects.Volume,
                               new_volume: objects.Volume,
                               original_volume_status: str) -> Update:
        """Give a migrated volume its own name on the new share."""
        return migrated.update(self.backend, volume, new_volume,
                               original_volume_status)

    def initialize_connection(self, volume: objects.Volume,
                              connector: Update,
                              initiator_data: Any = None) -> Update:
        """Return what a host needs to attach a volume."""
        return connections.initialize(self.backend, volume, connector)

    @classmethod
    def clean_volume_file_locks(cls, volume_id: str) -> None:
        """Remove what the lock of a deleted volume has left."""
        locks.remove(cls.driver_prefix, volume_id)

    def _update_volume_stats(self) -> None:
        super()._update_volume_stats()  # type: ignore[misc]
        self._stats.update(
            online_extend_support=(
                self.configuration.assisted_agent != 'never'),
            consistent_group_snapshot_enabled=True, multiattach=False,
            sparse_copy_volume=True)

    def _check_snapshot_support(self, setup_checking: bool = False) -> None:
        """Let snapshots be taken in secure mode too.

        Whether they are switched on is asked when one is taken.
        """
