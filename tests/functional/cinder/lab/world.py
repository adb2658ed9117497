# SPDX-License-Identifier: Apache-2.0
"""A Cinder of one test: a share, drivers on it, volumes and snapshots.

Rows are made as Cinder's API makes them and then given to a driver, as its
manager does; a test that is about the manager itself takes :attr:`manager`.
Rows carry the context of an ordinary user, as they do in Cinder.
"""

from __future__ import annotations

import functools
from pathlib import Path
import threading
from typing import Any
import uuid

from cinder import objects
from cinder import rpc
from cinder.db import api as db
from cinder.objects import base as objects_base
from cinder.volume import configuration
from cinder.volume import manager as volume_manager
from cinder.volume import volume_types
import oslo_messaging as messaging
from oslo_utils import importutils

from tests.functional.cinder.lab import content
from tests.functional.cinder.lab import deployment
from tests.functional.cinder.lab.content import Content
from tests.functional.lab import audit
from tests.functional.lab import images
from tests.functional.lab import share

OURS = 'assisted_snapshots.cinder_driver.nfs.NfsDriver'
UPSTREAM = 'cinder.volume.drivers.nfs.NfsDriver'
HOST = 'controller@nfs'
POOL = f'{HOST}#nfs'
GIB = 1 << 30
# Seconds that a driver's recovery has to end its first look.
_PATIENCE = 5.0
#: Under which Cinder's conf key manager has its one key.
KEY_ID = '00000000-0000-0000-0000-000000000000'


class World:
    """Cinder, in this process, with one share.

    :ivar folder: of everything; see :mod:`.deployment`.
    :ivar share: the folder that is the share.
    :ivar context: of a user; :attr:`admin` of an administrator.
    """

    def __init__(self, folder: Path, bound: bool = True) -> None:
        self.folder = folder
        self.share = (folder / 'share' if bound
                      else deployment.mount_point(folder))
        self._sections: set[str] = set()
        self._servers: list[Any] = []
        deployment.build(folder, bound)
        deployment.join(folder)
        self.context = deployment.user()
        self.admin = deployment.admin()

    def close(self) -> None:
        """End it; its folder stays."""
        for server in self._servers:
            server.stop()
            server.wait()
        for thread in threading.enumerate():
            if thread.name.startswith('recovery'):
                thread.join(_PATIENCE)
        deployment.leave()
        deployment.unmount(self.folder)

    # Drivers -------------------------------------------------------------

    @functools.cached_property
    def driver(self) -> Any:
        """The project's driver, set up."""
        return self.make_driver(OURS)

    @functools.cached_property
    def upstream(self) -> Any:
        """Cinder's own driver on the same share, set up."""
        return self.make_driver(UPSTREAM)

    @functools.cached_property
    def manager(self) -> Any:
        """A volume manager around the project's driver, set up."""
        return self.make_manager(OURS)

    def make_driver(self, cls: Any = OURS, name: str = '',
                    host: str = HOST, **options: object) -> Any:
        """Make and set up a driver as the volume manager would.

        :param cls: the class, or its import path.
        :param options: of its backend section, beside the common ones.
        """
        if isinstance(cls, str):
            cls = importutils.import_class(cls)
        conf = configuration.Configuration(
            volume_manager.volume_backend_opts,
            config_group=self.section(name, **options))
        driver = cls(configuration=conf, host=host, cluster_name=None,
                     is_vol_db_empty=False, active_backend_id=None)
        driver.do_setup(self.admin)
        driver.check_for_setup_error()
        driver.init_capabilities()
        driver.set_initialized()
        driver.get_volume_stats(refresh=True)
        return driver

    def make_manager(self, path: str = OURS, name: str = '',
                     host: str = HOST, cluster: str | None = None,
                     **options: object) -> Any:
        """Make a volume manager around a driver, and serve its RPC."""
        topic = 'cinder-volume'
        service = objects.Service(
            self.admin, host=host, binary=topic, topic=topic,
            availability_zone='nova', cluster_name=cluster, report_count=1,
            rpc_current_version=volume_manager.VolumeManager.RPC_API_VERSION,
            object_current_version=objects_base.OBJ_VERSIONS.get_current())
        service.create()
        found = volume_manager.VolumeManager(
            volume_driver=path, host=host, cluster=cluster,
            service_name=self.section(name, **options))
        found.init_host(service_id=service.id)
        assert found.driver.initialized
        for queue, server in ((topic, host),
                              (f'{topic}.{host}', host.partition('@')[0])):
            self._servers.append(rpc.get_server(
                messaging.Target(topic=queue, server=server), [found],
                objects_base.CinderObjectSerializer()))
            self._servers[-1].start()
        return found

    def section(self, name: str = '', **options: object) -> str:
        """Write a backend's section; its name."""
        name = name or f'backend-{len(self._sections) + 1}'
        self._sections.add(name)
        deployment.add_backend(self.folder, name, **options)
        return name

    # Rows ----------------------------------------------------------------

    @functools.cached_property
    def encrypted_type(self) -> Any:
        """A volume type whose volumes are LUKS-encrypted."""
        return self._type('luks', provider='luks', cipher='aes-xts-plain64',
                          key_size=256, control_location='front-end')

    def _type(self, name: str, **encryption: object) -> Any:
        made = volume_types.create(self.admin, name, {})
        db.volume_type_encryption_create(self.admin, made.id, encryption)
        return objects.VolumeType.get_by_id(self.admin, made.id)

    def row(self, size: int = 1, *, encrypted: bool = False,
            **values: Any) -> Any:
        """A volume's row that no driver has seen yet."""
        if encrypted:
            values |= {'encryption_key_id': KEY_ID,
                       'volume_type_id': self.encrypted_type.id}
        else:
            default = volume_types.get_default_volume_type(self.admin)
            values.setdefault('volume_type_id', default['id'])
        volume = objects.Volume(self.context, **{
            'size': size, 'status': 'creating', 'attach_status': 'detached',
            'host': POOL, 'availability_zone': 'nova', 'user_id': 'user',
            'project_id': 'project', 'display_name': 'volume', **values})
        volume.create()
        return self.fresh(volume)

    def snapshot_row(self, volume: Any, **values: Any) -> Any:
        """A snapshot's row that no driver has seen yet."""
        snapshot = objects.Snapshot(self.context, **{
            'volume_id': volume.id, 'user_id': 'user',
            'project_id': 'project', 'status': 'creating', 'progress': '0%',
            'volume_size': volume.size, 'display_name': 'snapshot',
            'volume_type_id': volume.volume_type_id,
            'encryption_key_id': volume.encryption_key_id, **values})
        snapshot.create()
        return self.fresh(snapshot)

    def fresh(self, thing: Any) -> Any:
        """A volume, snapshot or attachment as the database has it now."""
        return type(thing).get_by_id(self.context, thing.id)

    def become(self, thing: Any, status: str) -> Any:
        """Give a row a status, as Cinder does beforehand; the fresh row."""
        row = self.fresh(thing)
        row.status = status
        row.save()
        return self.fresh(row)

    # Whole operations, as the manager does them ---------------------------

    def settle(self, volume: Any, update: Any, status: str = 'available'
               ) -> Any:
        """Enter what a driver returned for a volume; the fresh row."""
        volume.update({**(update or {}), 'status': status})
        volume.save()
        return self.fresh(volume)

    def volume(self, size: int = 1, *, driver: Any = None,
               **values: Any) -> Any:
        """A new volume."""
        row = self.row(size, **values)
        return self.settle(row, (driver or self.driver).create_volume(row))

    def snapshot(self, volume: Any, *, driver: Any = None,
                 **values: Any) -> Any:
        """A new snapshot."""
        return self.take(self.snapshot_row(volume, **values), driver)

    def take(self, row: Any, driver: Any = None) -> Any:
        """Take the snapshot of a row; ``error`` if the driver raises."""
        try:
            update = (driver or self.driver).create_snapshot(row)
        except Exception:
            row.status = 'error'
            row.save()
            raise
        row.update({**(update or {}), 'status': 'available',
                    'progress': '100%'})
        row.save()
        return self.fresh(row)

    def delete(self, snapshot: Any, *, driver: Any = None) -> None:
        """Delete a snapshot; ``error_deleting`` if the driver raises."""
        snapshot = self.fresh(snapshot)
        snapshot.status = 'deleting'
        snapshot.save()
        try:
            (driver or self.driver).delete_snapshot(snapshot)
        except Exception:
            snapshot = self.fresh(snapshot)
            snapshot.status = 'error_deleting'
            snapshot.save()
            raise
        snapshot.destroy()

    def delete_volume(self, volume: Any, *, driver: Any = None) -> None:
        """Delete a volume."""
        volume = self.fresh(volume)
        volume.status = 'deleting'
        volume.save()
        (driver or self.driver).delete_volume(volume)
        volume.destroy()

    def from_snapshot(self, snapshot: Any, size: int = 0, *,
                      driver: Any = None, **values: Any) -> Any:
        """A new volume of a snapshot's content."""
        row = self.row(size or snapshot.volume_size,
                       **{**_kind(snapshot), **values},
                       snapshot_id=snapshot.id)
        return self.settle(
            row, (driver or self.driver).create_volume_from_snapshot(
                row, snapshot))

    def clone(self, volume: Any, size: int = 0, *, driver: Any = None,
              **values: Any) -> Any:
        """A new volume of another's content."""
        row = self.row(size or volume.size, **{**_kind(volume), **values},
                       source_volid=volume.id)
        return self.settle(
            row, (driver or self.driver).create_cloned_volume(
                row, self.fresh(volume)))

    # Attachments ----------------------------------------------------------

    def reserve(self, volume: Any, instance: str = '') -> Any:
        """The attachment that Nova reserves before it connects."""
        attachment = objects.VolumeAttachment(
            self.context, volume_id=volume.id, attach_status='reserved',
            instance_uuid=instance or str(uuid.uuid4()))
        attachment.create()
        volume = self.fresh(volume)
        volume.status = 'reserved'
        volume.save()
        return self.fresh(attachment)

    def connect(self, attachment: Any, host: str = 'compute-1', *,
                driver: Any = None) -> Any:
        """Connect a reserved attachment and complete it."""
        connector = {'host': host, 'ip': '127.0.0.1', 'mountpoint': '/dev/vdb',
                     'initiator': '', 'multipath': False}
        volume = self.fresh(objects.Volume(id=attachment.volume_id))
        found = (driver or self.driver).initialize_connection(
            volume, connector)
        attachment.connection_info = {
            **found['data'], 'qos_specs': None, 'access_mode': 'rw',
            'encrypted': bool(volume.encryption_key_id),
            'driver_volume_type': found['driver_volume_type'],
            'mount_point_base': found['mount_point_base'],
            'attachment_id': attachment.id}
        attachment.connector = connector
        attachment.save()
        db.volume_attached(self.admin, attachment.id,
                           attachment.instance_uuid, host, '/dev/vdb', 'rw')
        return self.fresh(attachment)

    def attach(self, volume: Any, host: str = 'compute-1',
               instance: str = '', *, driver: Any = None) -> Any:
        """Attach a volume to an instance; the attachment."""
        return self.connect(self.reserve(volume, instance), host,
                            driver=driver)

    def detach(self, attachment: Any) -> None:
        """End an attachment in the database."""
        db.volume_detached(self.admin, attachment.volume_id, attachment.id)

    # Content ---------------------------------------------------------------

    def formats(self, volume: Any) -> dict[str, str]:
        """Cinder's admin metadata of a volume."""
        volume = self.fresh(volume)
        with volume.obj_as_admin():
            return dict(volume.admin_metadata)

    def disk(self, volume: Any, base_format: str = '') -> share.Volume:
        """The volume's files, for the laboratory's own tools.

        :param base_format: if the database is not to be believed.
        """
        known = self.fresh(volume)
        metadata = self.formats(known)
        fmt = base_format or metadata.get(
            'base_format', metadata.get('format', 'raw'))
        encrypted = bool(known.encryption_key_id)
        return share.Volume(
            self.share, known.name_id, 'qcow2' if encrypted else fmt,
            known.size * GIB,
            deployment.FIXED_KEY.encode() if encrypted else None)

    def write(self, volume: Any, byte: int, offset: int = 0,
              length: int = content.LENGTH, *, base_format: str = '') -> None:
        """Fill a range of a volume that no guest has."""
        disk = self.disk(volume, base_format)
        content.write(disk.active, disk.active_format, byte, offset, length,
                      disk.secret)

    def content(self, volume: Any, *, base_format: str = '') -> Content:
        """What a guest would see of a volume."""
        disk = self.disk(volume, base_format)
        return content.of(disk.active, disk.active_format, disk.secret)

    def snapshot_content(self, snapshot: Any, *, base_format: str = ''
                         ) -> Content:
        """What a snapshot holds, after .info and the headers."""
        disk = self.disk(objects.Volume(id=snapshot.volume_id), base_format)
        image, fmt = audit.below(disk, snapshot.id)
        return content.of(image, fmt, disk.secret)

    def names(self, volume: Any) -> tuple[str, ...]:
        """The volume's layers after the headers, base first."""
        return audit.layers(self.disk(volume))

    def audit(self, volume: Any, *snapshots: Any, base_format: str = ''
              ) -> None:
        """Files, .info, headers and the database agree; nothing is left over.

        :param snapshots: those that must be there, oldest first.
        """
        disk = self.disk(volume, base_format)
        audit.settled(disk, [snapshot.id for snapshot in snapshots])
        known = self.fresh(volume)
        metadata = self.formats(known)
        assert metadata.get('format') == disk.active_format, metadata
        assert images.virtual_size(disk.active, disk.active_format) == (
            known.size * GIB)


def _kind(source: Any) -> dict[str, Any]:
    """Type and key that a copy of something has by default."""
    if not source.encryption_key_id:
        return {}
    return {'encrypted': True}
