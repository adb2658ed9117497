# SPDX-License-Identifier: Apache-2.0
"""GlusterFS volumes in Nova, by a FUSE mount.

Nova has no driver for the volumes of
``assisted_snapshots.cinder_driver.gluster``; this is one, on Nova's own base
for shares that are mounted.
"""

from __future__ import annotations

from typing import Any

import nova.conf
from nova.virt.libvirt.volume import fs

from assisted_snapshots.nova_hooks import conf

CONF = nova.conf.CONF


class GlusterfsVolumeDriver(fs.LibvirtMountedFileSystemVolumeDriver):
    """Mounts a Gluster share and gives libvirt the file on it."""

    def __init__(self, host: Any) -> None:
        super().__init__(host, fstype='glusterfs')

    def _get_mount_point_base(self) -> str:
        return str(CONF[conf.GROUP].glusterfs_mount_point_base)

    def _mount_options(self, connection_info: dict[str, Any]) -> list[str]:
        return (connection_info['data'].get('options') or '').split()

    def get_config(self, connection_info: dict[str, Any],
                   disk_info: Any) -> Any:
        """Return what libvirt is told of the disk."""
        disk = super().get_config(connection_info, disk_info)
        disk.source_type = 'file'
        disk.source_path = connection_info['data']['device_path']
        disk.driver_format = connection_info['data']['format']
        return disk

    def extend_volume(self, connection_info: dict[str, Any], instance: Any,
                      requested_size: int) -> int:
        """Leave it to libvirt, which resizes the file and the disk."""
        return requested_size
