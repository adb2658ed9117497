# SPDX-License-Identifier: Apache-2.0
"""Nova's libvirt driver, with assisted snapshots by the agent.

``compute_driver = assisted.LibvirtDriver`` under ``nova-compute-assisted``.
It overrides what takes and deletes snapshots of volumes, what starts guests,
so far as to see that they start on the right layer, and what a job is in the
way of, so far as to wait for it or to refuse; everything else is Nova's.
"""

from __future__ import annotations

import logging
from pathlib import Path
import threading
from typing import Any

from nova import exception
from nova import rpc
from nova.compute import vm_states
import nova.conf
from nova.virt import block_device
from nova.virt.libvirt import driver
from nova.virt.libvirt import utils as libvirt_utils

from assisted_snapshots.nova_hooks import conf
from assisted_snapshots.nova_hooks import definition
from assisted_snapshots.nova_hooks import guard
from assisted_snapshots.nova_hooks import volumes
from assisted_snapshots.nova_hooks.disk import LayeredDisk
from assisted_snapshots.nova_hooks.errors import BlockJob
from assisted_snapshots.nova_hooks.errors import HookError
from assisted_snapshots.nova_hooks.handover import Handover
from assisted_snapshots.nova_hooks.jobs import Jobs
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

# Types of volumes that are files on shares.
_ON_SHARES = ('nfs', 'glusterfs')

# Nova's copy of a definition, while the guest is rescued.
_KEPT = 'unrescue.xml'


class AssistedLibvirtDriver(driver.LibvirtDriver):
    """Hands snapshots to the agent of its host."""

    def init_host(self, host: str) -> None:
        """Start as Nova's driver, then begin to take reports.

        :raises NoCredentials: nobody could pass them on to Cinder.
        """
        volumes.check_credentials(CONF)
        # Nova's own may start guests already.
        options = CONF[conf.GROUP]
        way = (transport.make(url=options.transport_url)
               if options.transport_url else rpc.TRANSPORT)
        agent = AgentClient(way, host, options.agent_timeout)
        self._jobs = Jobs(agent, options.job_patience)
        self._starting: dict[str, Any] = {}
        self._migrating = threading.local()
        super().init_host(host)
        self._handover = Handover(
            agent, volumes, patience=options.agent_patience,
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

    def extend_volume(self, context: Any, connection_info: Any,
                      instance: Any, requested_size: int) -> None:
        """Leave a disk on a share alone once it has its size.

        Nova would resize it once more: to a size that may be out of date,
        which shrinks it, and not at all if it is encrypted.
        """
        volume_id = block_device.get_volume_id(connection_info)
        if not _on_share(connection_info) \
                or not self._handover.extend(volume_id, requested_size):
            super().extend_volume(context, connection_info, instance,
                                  requested_size)

    # Encrypted volumes ---------------------------------------------------

    def _attach_encryptor(self, context: Any, connection_info: Any,
                          encryption: Any) -> None:
        # Nova would miss a LUKS header at the beginning of the file, as
        # qcow2 has it elsewhere, and have one written over the layer.
        super()._attach_encryptor(context, _no_device(connection_info),
                                  encryption)

    def _detach_encryptor(self, context: Any, connection_info: Any,
                          encryption: Any, destroy_secrets: bool = True
                          ) -> None:
        super()._detach_encryptor(context, _no_device(connection_info),
                                  encryption, destroy_secrets)

    # What starts guests --------------------------------------------------

    def _hard_reboot(self, context: Any, instance: Any, network_info: Any,
                     share_info: Any, block_device_info: Any = None,
                     accel_info: Any = None) -> None:
        self._wait_for_files(instance)
        self._starting[instance.uuid] = block_device_info
        try:
            super()._hard_reboot(context, instance, network_info, share_info,
                                 block_device_info, accel_info)
        finally:
            del self._starting[instance.uuid]

    def _destroy(self, instance: Any) -> None:
        super()._destroy(instance)
        # A job may have moved a disk as long as there was a QEMU.
        self._follow(instance, self._starting.get(instance.uuid))

    def rescue(self, context: Any, instance: Any, network_info: Any,
               image_meta: Any, rescue_password: Any,
               block_device_info: Any, share_info: Any) -> None:
        """Start the rescue system, the volumes on their last layers."""
        self._follow(instance, block_device_info)
        super().rescue(context, instance, network_info, image_meta,
                       rescue_password, block_device_info, share_info)

    def unrescue(self, context: Any, instance: Any) -> None:
        """Start the guest as it was, but on the layers it has now."""
        mappings = volumes.mappings(instance.uuid)
        self._starting[instance.uuid] = {'block_device_mapping': mappings}
        try:
            self._destroy(instance)
            layers = guard.layers(mappings)
            kept = Path(libvirt_utils.get_instance_path(instance), _KEPT)
            kept.write_text(definition.repointed(kept.read_text(), layers))
            super().unrescue(context, instance)
        finally:
            del self._starting[instance.uuid]

    def _get_volume_config(self, connection_info: Any,
                           disk_info: Any) -> Any:
        # The folder of a migration's other host may not be mounted here.
        if not getattr(self._migrating, 'now', False):
            guard.check(connection_info)
        disk = super()._get_volume_config(connection_info, disk_info)
        if not _on_share(connection_info) \
                or not connection_info['data'].get('encrypted'):
            return disk
        return LayeredDisk(disk, guard.below(Path(disk.source_path)))

    def _live_migration_operation(
            self, context: Any, instance: Any, dest: Any,
            block_migration: Any, migrate_data: Any, guest: Any,
            device_names: Any) -> None:
        guard.check_moving(guest.get_xml_desc(), {
            one.serial: one.connection_info for one in migrate_data.bdms})
        self._migrating.now = True
        try:
            super()._live_migration_operation(
                context, instance, dest, block_migration, migrate_data,
                guest, device_names)
        finally:
            self._migrating.now = False

    # What a job is in the way of -----------------------------------------

    def check_can_live_migrate_source(
            self, context: Any, instance: Any, dest_check_data: Any,
            block_device_info: Any = None) -> Any:
        """Refuse a migration in the middle of a job: QEMU could not do it."""
        try:
            self._wait_for_jobs(instance)
        except HookError as exc:
            raise exception.MigrationPreCheckError(reason=exc) from exc
        return super().check_can_live_migrate_source(
            context, instance, dest_check_data, block_device_info)

    def migrate_disk_and_power_off(
            self, context: Any, instance: Any, dest: Any, flavor: Any,
            network_info: Any, block_device_info: Any = None,
            timeout: int = 0, retry_interval: int = 0) -> Any:
        """Refuse to leave the host where a job's agent is."""
        try:
            self._wait_for_jobs(instance)
        except HookError as exc:
            raise exception.InstanceFaultRollback(
                exception.ResizeError(reason=exc)) from exc
        return super().migrate_disk_and_power_off(
            context, instance, dest, flavor, network_info,
            block_device_info, timeout, retry_interval)

    def rebuild(self, context: Any, instance: Any, *args: Any,
                **kwargs: Any) -> Any:
        """Refuse to detach the volumes in the middle of a job."""
        if not kwargs.get('evacuate'):
            try:
                self._wait_for_jobs(instance)
            except HookError as exc:
                raise exception.InstanceFaultRollback(
                    exception.InstanceDeployFailure(reason=exc)) from exc
        return super().rebuild(context, instance, *args, **kwargs)

    def suspend(self, context: Any, instance: Any) -> None:
        """Refuse to save a guest whose layers are about to change."""
        try:
            self._wait_for_jobs(instance)
        except HookError as exc:
            raise exception.InstanceFaultRollback(
                exception.InstanceSuspendFailure(reason=exc)) from exc
        super().suspend(context, instance)

    def detach_volume(self, context: Any, connection_info: Any,
                      instance: Any, mountpoint: Any,
                      encryption: Any = None) -> None:
        """Refuse to take a disk away from the job on it."""
        try:
            self._wait_for_jobs(instance, connection_info.get('serial'))
        except HookError as exc:
            raise exception.DeviceDetachFailed(device=mountpoint,
                                               reason=exc) from exc
        super().detach_volume(context, connection_info, instance, mountpoint,
                              encryption)

    def swap_volume(self, context: Any, old_connection_info: Any,
                    new_connection_info: Any, instance: Any, mountpoint: Any,
                    resize_to: Any) -> None:
        """Refuse to copy a disk with a job on it, which Nova would end."""
        try:
            self._wait_for_jobs(instance, old_connection_info.get('serial'))
        except HookError as exc:
            raise exception.VolumeRebaseFailed(reason=exc) from exc
        super().swap_volume(context, old_connection_info,
                            new_connection_info, instance, mountpoint,
                            resize_to)

    def _wait_for_jobs(self, instance: Any, volume: str | None = None
                       ) -> None:
        """Return when no job is on an instance, or on one volume of it.

        :raises HookError: why there still is one.
        """
        xml = self._definition(instance)
        if xml is None:
            return
        disks = {serial: source for serial, source
                 in definition.sources(xml).items()
                 if volume in (None, serial)}
        try:
            self._jobs.ended(disks)
        except errors.AgentError as exc:
            LOG.warning('The agent cannot say whether it has a job for %s; '
                        'libvirt is asked: %s', instance.uuid, exc)
            guest = self._host.get_guest(instance)
            for disk in disks.values():
                if guest.is_active() and guest.get_block_device(
                        disk.device).get_job_info() is not None:
                    raise BlockJob(device=disk.device) from exc

    def _wait_for_files(self, instance: Any) -> None:
        """Return when nobody works on the layers of a guest that is off.

        :raises InstancePowerOnFailure: somebody still does.
        """
        xml = self._definition(instance)
        if xml is None or self._host.get_guest(instance).is_active():
            return
        try:
            self._jobs.patiently(lambda: guard.written_to(xml))
        except HookError as exc:
            raise exception.InstancePowerOnFailure(reason=exc) from exc

    def _definition(self, instance: Any) -> str | None:
        """Return what libvirt has of an instance, if it has it."""
        try:
            return str(self._host.get_guest(instance).get_xml_desc())
        except exception.InstanceNotFound:
            return None

    def _follow(self, instance: Any, block_device_info: Any) -> None:
        """Let the mappings follow the definition, if there is one."""
        mappings = (block_device_info or {}).get('block_device_mapping')
        if mappings and (xml := self._definition(instance)) is not None:
            guard.follow(xml, mappings)


def _on_share(connection_info: Any) -> bool:
    return connection_info.get('driver_volume_type') in _ON_SHARES


def _no_device(connection_info: Any) -> Any:
    """Return what Nova does not take for a device of os-brick's.

    QEMU decrypts the files of a share by itself.
    """
    if not _on_share(connection_info):
        return connection_info
    data = {key: value for key, value in connection_info['data'].items()
            if key != 'device_path'}
    return {**connection_info, 'data': data}


def _busy(instance: Any) -> str:
    """Return why an instance cannot have a job now; empty if it can."""
    if instance.task_state is not None:
        return (f'{instance.uuid} is {instance.task_state}; repeat the '
                f'request when that is over')
    if instance.vm_state == vm_states.RESIZED:
        return (f'{instance.uuid} has been resized; confirm or revert that '
                f'first')
    return ''
