# SPDX-License-Identifier: Apache-2.0
"""Nova's libvirt driver, with assisted snapshots by the agent.

``compute_driver = assisted.LibvirtDriver`` under ``nova-compute-assisted``.
It overrides what takes and deletes snapshots of volumes, and what starts
guests, so far as to see that they start on the right layer; everything else
is Nova's.
"""

from __future__ import annotations

import logging
from typing import Any

from nova import exception
from nova import rpc
from nova.compute import vm_states
import nova.conf
from nova.virt.libvirt import driver

from assisted_snapshots.nova_hooks import conf
from assisted_snapshots.nova_hooks import guard
from assisted_snapshots.nova_hooks import volumes
from assisted_snapshots.nova_hooks.handover import Handover
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


class AssistedLibvirtDriver(driver.LibvirtDriver):
    """Hands snapshots to the agent of its host."""

    def init_host(self, host: str) -> None:
        """Start as Nova's driver, then begin to take reports."""
        super().init_host(host)
        options = CONF[conf.GROUP]
        way = (transport.make(url=options.transport_url)
               if options.transport_url else rpc.TRANSPORT)
        self._handover = Handover(
            AgentClient(way, host, options.agent_timeout), volumes,
            patience=options.agent_patience,
            interval=options.progress_interval)
        self._handover.start(way, host, options.report_topic)

    def cleanup_host(self, host: str) -> None:
        """Take no more reports, then end as Nova's driver."""
        self._handover.stop()
        super().cleanup_host(host)

    def volume_snapshot_create(self, context: Any, instance: Any,
                               volume_id: str,
                               create_info: dict[str, Any]) -> None:
        """Have the agent take a snapshot; returns when it is journaled."""
        self._handover.create(volume_id, create_info, _busy(instance))

    def volume_snapshot_delete(self, context: Any, instance: Any,
                               volume_id: str, snapshot_id: str,
                               delete_info: dict[str, Any]) -> None:
        """Have the agent delete a snapshot; returns when it is journaled."""
        self._handover.delete(volume_id, snapshot_id, delete_info,
                              _busy(instance))

    def _hard_reboot(self, context: Any, instance: Any, network_info: Any,
                     share_info: Any, block_device_info: Any = None,
                     accel_info: Any = None) -> None:
        self._follow(instance, block_device_info)
        super()._hard_reboot(context, instance, network_info, share_info,
                             block_device_info, accel_info)

    def rescue(self, context: Any, instance: Any, network_info: Any,
               image_meta: Any, rescue_password: Any,
               block_device_info: Any, share_info: Any) -> None:
        """Start the rescue system, the volumes on their last layers."""
        self._follow(instance, block_device_info)
        super().rescue(context, instance, network_info, image_meta,
                       rescue_password, block_device_info, share_info)

    def _get_volume_config(self, connection_info: Any,
                           disk_info: Any) -> Any:
        guard.check(connection_info)
        return super()._get_volume_config(connection_info, disk_info)

    def _follow(self, instance: Any, block_device_info: Any) -> None:
        """Let the mappings follow the definition, if there is one."""
        mappings = (block_device_info or {}).get('block_device_mapping')
        if not mappings:
            return
        try:
            xml = self._host.get_guest(instance).get_xml_desc()
        except exception.InstanceNotFound:
            return
        guard.follow(xml, mappings)


def _busy(instance: Any) -> str:
    """Return why an instance cannot have a job now; empty if it can."""
    if instance.task_state is not None:
        return (f'{instance.uuid} is {instance.task_state}; repeat the '
                f'request when that is over')
    if instance.vm_state == vm_states.RESIZED:
        return (f'{instance.uuid} has been resized; confirm or revert that '
                f'first')
    return ''


#: What is relied on: owner, name, and the arguments it is called with.
RELIED_ON: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (driver.LibvirtDriver, 'init_host', ('host',)),
    (driver.LibvirtDriver, 'cleanup_host', ('host',)),
    (driver.LibvirtDriver, 'volume_snapshot_create',
     ('context', 'instance', 'volume_id', 'create_info')),
    (driver.LibvirtDriver, 'volume_snapshot_delete',
     ('context', 'instance', 'volume_id', 'snapshot_id', 'delete_info')),
    (driver.LibvirtDriver, '_hard_reboot',
     ('context', 'instance', 'network_info', 'share_info',
      'block_device_info', 'accel_info')),
    (driver.LibvirtDriver, 'rescue',
     ('context', 'instance', 'network_info', 'image_meta',
      'rescue_password', 'block_device_info', 'share_info')),
    (driver.LibvirtDriver, '_get_volume_config',
     ('connection_info', 'disk_info')),
)
