# SPDX-License-Identifier: Apache-2.0
"""What the hooks rely on in Nova: every method they override or call.

Compared with Nova when nova-compute starts.
"""

from __future__ import annotations

from nova.virt import block_device
from nova.virt.libvirt import config
from nova.virt.libvirt import driver
from nova.virt.libvirt import guest

#: What is relied on: owner, name, and the arguments it is called with.
RELIED_ON: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (driver.LibvirtDriver, 'init_host', ('host',)),
    (driver.LibvirtDriver, 'cleanup_host', ('host',)),
    (driver.LibvirtDriver, 'volume_snapshot_create',
     ('context', 'instance', 'volume_id', 'create_info')),
    (driver.LibvirtDriver, 'volume_snapshot_delete',
     ('context', 'instance', 'volume_id', 'snapshot_id', 'delete_info')),
    (driver.LibvirtDriver, 'extend_volume',
     ('context', 'connection_info', 'instance', 'requested_size')),
    (driver.LibvirtDriver, '_attach_encryptor',
     ('context', 'connection_info', 'encryption')),
    (driver.LibvirtDriver, '_detach_encryptor',
     ('context', 'connection_info', 'encryption', 'destroy_secrets')),
    (driver.LibvirtDriver, '_hard_reboot',
     ('context', 'instance', 'network_info', 'share_info',
      'block_device_info', 'accel_info')),
    (driver.LibvirtDriver, 'rescue',
     ('context', 'instance', 'network_info', 'image_meta',
      'rescue_password', 'block_device_info', 'share_info')),
    (driver.LibvirtDriver, 'unrescue', ('context', 'instance')),
    (driver.LibvirtDriver, '_destroy', ('instance',)),
    (driver.LibvirtDriver, '_get_volume_config',
     ('connection_info', 'disk_info')),
    (driver.LibvirtDriver, '_live_migration_operation',
     ('context', 'instance', 'dest', 'block_migration', 'migrate_data',
      'guest', 'device_names')),
    (driver.LibvirtDriver, 'check_can_live_migrate_source',
     ('context', 'instance', 'dest_check_data', 'block_device_info')),
    (driver.LibvirtDriver, 'migrate_disk_and_power_off',
     ('context', 'instance', 'dest', 'flavor', 'network_info',
      'block_device_info', 'timeout', 'retry_interval')),
    (driver.LibvirtDriver, 'rebuild',
     ('context', 'instance', 'image_meta', 'injected_files',
      'admin_password', 'allocations', 'bdms', 'detach_block_devices',
      'attach_block_devices', 'network_info', 'evacuate',
      'block_device_info', 'preserve_ephemeral', 'accel_uuids',
      'reimage_boot_volume')),
    (driver.LibvirtDriver, 'suspend', ('context', 'instance')),
    (driver.LibvirtDriver, 'detach_volume',
     ('context', 'connection_info', 'instance', 'mountpoint',
      'encryption')),
    (driver.LibvirtDriver, 'swap_volume',
     ('context', 'old_connection_info', 'new_connection_info', 'instance',
      'mountpoint', 'resize_to')),
    (config.LibvirtConfigGuestDisk, 'format_dom', ()),
    (block_device.DriverVolumeBlockDevice, 'save', ()),
    (guest.Guest, 'is_active', ()),
    (guest.Guest, 'get_block_device', ('disk',)),
    (guest.BlockDevice, 'get_job_info', ()),
)
