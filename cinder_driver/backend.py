# SPDX-License-Identifier: Apache-2.0
"""One backend: what the modules of this room share, and reach the world by.

A thin object around the RemoteFS driver that Cinder has loaded.  It keeps
no state of its own, so any thread may use it; what touches a chain says
which lock it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cinder import context as cinder_context
from cinder import objects
from cinder.objects import fields
from oslo_utils import units

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.bare import is_bare
from assisted_snapshots.chain.guest import GuestSide
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.qemu_img import Progress
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.cinder_driver import locks
from assisted_snapshots.cinder_driver import metadata
from assisted_snapshots.cinder_driver import promises
from assisted_snapshots.cinder_driver import secrets
from assisted_snapshots.cinder_driver import shares
from assisted_snapshots.cinder_driver.native import native


class Backend:
    """What the modules of this room share.

    :param driver: a driver that stands on Cinder's RemoteFS driver.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    @property
    def configuration(self) -> Any:
        """Cinder's configuration of the backend's section."""
        return self.driver.configuration

    @property
    def prefix(self) -> str:
        """``nfs`` or the like: of locks and of upstream's options."""
        return str(self.driver.driver_prefix)

    @property
    def host(self) -> str:
        """``host@backend``."""
        return str(self.driver.host)

    def option(self, name: str, default: Any = None) -> Any:
        """Return an upstream option whose name begins with the prefix."""
        return getattr(self.configuration, f'{self.prefix}_{name}', default)

    def context(self) -> cinder_context.RequestContext:
        """Return a context that may read and write everything."""
        return cinder_context.get_admin_context()

    def fresh(self, volume: objects.Volume) -> objects.Volume:
        """Return the volume as the database has it now.

        Called with the volume locked: the object in hand is as old as the
        request.
        """
        return self.fresh_by_id(volume.id)

    def fresh_by_id(self, volume_id: str) -> objects.Volume:
        """Return the volume of an id as the database has it now."""
        return objects.Volume.get_by_id(self.context(), volume_id)

    def mode(self) -> int:
        """Return the mode of files, as upstream's option says."""
        secure = self.configuration.nas_secure_file_permissions == 'true'
        return shares.SECURE if secure else shares.OPEN

    def share_folder(self, share: str) -> Path:
        """Return where a share is mounted."""
        return Path(self.driver._get_mount_point_for_share(share))

    def folder(self, volume: objects.Volume) -> Path:
        """Return where the share of a volume is mounted."""
        return self.share_folder(volume.provider_location)

    def files(self, volume: objects.Volume) -> VolumeFiles:
        """Return where a volume's files are, migrated ones included."""
        return VolumeFiles(self.folder(volume), volume.name)

    def formats(self, volume: objects.Volume) -> Mapping[str, Format]:
        """Return the formats that Cinder pins.

        :param volume: fresh.
        """
        return native(metadata.pins, self.files(volume),
                      metadata.recorded(volume),
                      volume.encryption_key_id is not None)

    def wanted_format(self, volume: objects.Volume) -> Format:
        """Return the format of a new volume, as upstream's option says.

        Encryption is qcow2's.
        """
        if volume.encryption_key_id or self.option('qcow2_volumes', False):
            return Format.QCOW2
        return Format.RAW

    def secret(self, volume: objects.Volume) -> Secret | None:
        """Return the passphrase of an encrypted volume."""
        return secrets.secret_for(self.context(), volume)

    def locked(self, *volume_ids: str) -> AbstractContextManager[None]:
        """Hold the locks of volumes, source before target."""
        return locks.locked(self.prefix, *volume_ids)

    def operations(self, volume: objects.Volume, *,
                   guest: GuestSide | None = None,
                   progress: Progress | None = None) -> Operations:
        """Return what can be done to a volume; for :func:`native`.

        :param volume: fresh, and locked.
        """
        secret = self.secret(volume)
        converted = secret and not is_attached(volume) and native(
            _adopt, self.files(volume), secret, size_bytes(volume))
        operations = Operations(
            self.files(volume), formats=self.formats(volume), guest=guest,
            secret=secret, progress=progress,
            keep_active=bool(getattr(guest, 'keeps_active', False)))
        if converted:
            self.note(volume, native(operations.state))
        return operations

    def unsettled(self, volume: objects.Volume) -> bool:
        """Tell whether a crash has cut an operation short."""
        return native(_unsettled, self.files(volume))

    def settled(self, volume: objects.Volume, *,
                guest: GuestSide | None = None,
                progress: Progress | None = None) -> Operations:
        """Return the same when what a crash has cut short is over.

        :raises Disagreement: nobody can tell what is right.
        """
        operations = self.operations(volume, guest=guest, progress=progress)
        if self.unsettled(volume):
            doing = native(Store(self.files(volume)).doing)
            with promises.ending(self.context(), doing):
                native(operations.recover)
        return operations

    def note(self, volume: objects.Volume, state: VolumeState) -> None:
        """Bring Cinder's records of the formats in step with the chain."""
        metadata.note(self.context(), volume, state)


def size_bytes(volume: objects.Volume) -> int:
    """Return the size that Cinder has granted."""
    return int(volume.size) * units.Gi


def is_attached(volume: objects.Volume) -> bool:
    """Tell whether a guest has the volume, by any of Cinder's records."""
    attached = fields.VolumeAttachStatus.ATTACHED
    return volume.attach_status == attached or any(
        attachment.attach_status == attached
        for attachment in volume.volume_attachment)


def _adopt(files: VolumeFiles, secret: Secret, size: int) -> bool:
    """Convert a bare LUKS container that upstream has made.

    While a guest has it, it stays what it is, and the chain room refuses
    what would need a layer.

    :returns: False if it is none.
    """
    if not is_bare(files):
        return False
    Operations(files, formats={files.name: Format.RAW},
               secret=secret).adopt_luks(size)
    return True


def _unsettled(files: VolumeFiles) -> bool:
    store = Store(files)
    if store.doing() is not None:
        return True
    try:
        info = store.read_info()
    except errors.ChainError:  # recovery mends it, or says what is wrong
        return True
    return info is None and any(
        name for name in files.folder.glob(f'{files.name}.*')
        if name.suffix not in ('.journal', '.lock', '.tmp'))
