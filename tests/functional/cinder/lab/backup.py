# SPDX-License-Identifier: Apache-2.0
"""Cinder's own backup service in this process, with its posix driver.

Requests are made as Cinder's API makes them; from there on all is Cinder's:
backup manager, RPC, volume manager, os-brick.
"""

from __future__ import annotations

import time
from typing import Any

from cinder import objects
from cinder import rpc
from cinder.backup import manager as backup_manager
from cinder.backup.drivers import posix as _options  # noqa: F401
from cinder.objects import base as objects_base
from oslo_config import cfg
import oslo_messaging as messaging

from tests.functional.cinder.lab.world import World

HOST = 'controller'
MIB = 1 << 20
GIB = 1 << 30
#: What the layers of :func:`history` hold.
PATTERNS = (0x10, 0x11, 0x12)
_OPTIONS = {
    'backup_driver': 'cinder.backup.drivers.posix.PosixBackupDriver',
    'backup_compression_algorithm': 'zstd',
    'backup_enable_progress_timer': False,
}


class BackupService:
    """Backs up and restores volumes of a world.

    :param cinder: a world whose volume manager runs.
    """

    def __init__(self, cinder: World) -> None:
        self._cinder = cinder
        for name, value in _OPTIONS.items():
            cfg.CONF.set_override(name, value)
        topic = 'cinder-backup'
        service = objects.Service(
            cinder.admin, host=HOST, binary=topic, topic=topic,
            availability_zone='nova', report_count=1,
            rpc_current_version=(
                backup_manager.BackupManager.RPC_API_VERSION),
            object_current_version=objects_base.OBJ_VERSIONS.get_current())
        service.create()
        self.manager = backup_manager.BackupManager(host=HOST)
        self.manager.init_host()
        self._server = rpc.get_server(
            messaging.Target(topic=topic, server=HOST), [self.manager],
            objects_base.CinderObjectSerializer())
        self._server.start()

    def close(self) -> None:
        """End it."""
        self._server.stop()
        self._server.wait()
        for name in _OPTIONS:
            cfg.CONF.clear_override(name)

    def create(self, volume: Any, snapshot: Any = None) -> Any:
        """Back up a volume, or a snapshot; the backup."""
        cinder = self._cinder
        volume = cinder.fresh(volume)
        if snapshot is None:
            before = volume.status
            volume.update({'status': 'backing-up', 'previous_status': before})
            volume.save()
        else:
            snapshot = cinder.fresh(snapshot)
            snapshot.status = 'backing-up'
            snapshot.save()
        backup = objects.Backup(
            cinder.context, volume_id=volume.id, status='creating',
            user_id='user', project_id='project', size=volume.size,
            host=HOST, container=None, display_name='backup',
            snapshot_id=snapshot.id if snapshot else None,
            encryption_key_id=None)
        backup.create()
        self.manager.create_backup(cinder.context, backup)
        backup = self._ended(backup, 'creating')
        assert backup.status == 'available', backup.fail_reason
        if snapshot is None:
            assert cinder.fresh(volume).status == before
        return backup

    def restore(self, backup: Any, volume: Any = None, **values: Any) -> Any:
        """Restore into a volume, or into a new one; the volume.

        :param values: of the new volume's row.
        """
        cinder = self._cinder
        new = volume is None
        if new:
            volume = cinder.volume(backup.size, **values)
        volume = cinder.fresh(volume)
        volume.status = 'restoring-backup'
        volume.save()
        backup = cinder.fresh(backup)
        backup.update({'status': 'restoring', 'restore_volume_id': volume.id})
        backup.save()
        self.manager.restore_backup(cinder.context, backup, volume.id, new)
        backup = self._ended(backup, 'restoring')
        assert cinder.fresh(volume).status == 'available'
        return cinder.fresh(volume)

    def _ended(self, backup: Any, status: str) -> Any:
        """The backup when it has left a status."""
        while (found := self._cinder.fresh(backup)).status == status:
            time.sleep(0.1)
        return found


def history(cinder: World, **values: Any) -> tuple[Any, list[Any]]:
    """A volume with two snapshots, different content in each layer."""
    volume = cinder.volume(**values)
    cinder.write(volume, 0x10, 3 * MIB)
    cinder.write(volume, 0x10, GIB - MIB)
    first = cinder.snapshot(volume)
    cinder.write(volume, 0x11)
    second = cinder.snapshot(volume)
    cinder.write(volume, 0x12)
    cinder.write(volume, 0x12, 5 * MIB)
    return volume, [first, second]
