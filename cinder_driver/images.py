# SPDX-License-Identifier: Apache-2.0
"""Images into volumes and out of them.

Upload takes what a guest would see, through a raw view, with every format
said: what a guest has written can look like a header.  Download goes
through Cinder's own checks of untrusted images into a file beside the
volume's layer, which then takes the layer's place: complete, of the recorded
format and of the volume's size.  Crash: the volume is as it was, and the
file aside goes with the next one, or with the volume.

An encrypted volume leaves and enters as a LUKS container, whose key travels
with the image.  This module must never write plain text of an encrypted
volume to a share, nor an image below a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import socket
from typing import Any

from cinder import context as cinder_context
from cinder import objects
from cinder.image import accelerator
from cinder.image import image_utils
from cinder.volume import volume_utils
from oslo_config import cfg

from assisted_snapshots.chain.lock import denied_to_qemu
from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.store import blank
from assisted_snapshots.chain.store import dress
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import secrets
from assisted_snapshots.cinder_driver import temporary
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.backend import size_bytes
from assisted_snapshots.cinder_driver.native import native
from assisted_snapshots.cinder_driver.staged import ImageTool
from assisted_snapshots.cinder_driver.staged import shown
from assisted_snapshots.cinder_driver.views import Views

_RAW = 'raw'


class SnapshotsBelow(failures.Refused):
    """An image would change what snapshots hold."""

    message = ('volume %(volume)s has %(count)s snapshots, whose content an '
               'image would overwrite; delete them first')


class Upload:
    """Makes images of volumes.

    :param views: of the backend.
    """

    def __init__(self, backend: Backend, views: Views) -> None:
        self._backend = backend
        self._views = views

    def run(self, context: cinder_context.RequestContext,
            volume: objects.Volume, image_service: Any,
            image_meta: dict[str, Any]) -> None:
        """Write what a guest would see into an image.

        A volume in use is uploaded as it is now, by a snapshot that lasts
        as long as the upload.
        """
        wanted = image_meta['disk_format']
        image_utils.check_image_conversion_disable(
            wanted, _RAW, image_meta['id'], upload=True)
        with self._raw(volume) as source:
            packed = image_meta.get('container_format') == 'compressed'
            if wanted == _RAW and not packed:
                self._send(context, volume, image_service, image_meta, source)
                return
            with image_utils.temporary_file(prefix='vol_upload_') as made:
                native(_convert, source, Path(made), wanted)
                if packed:
                    accelerator.ImageAccel(made, made).compress_img(
                        run_as_root=False)
                self._send(context, volume, image_service, image_meta,
                           Path(made))

    def _send(self, context: cinder_context.RequestContext,
              volume: objects.Volume, image_service: Any,
              image_meta: dict[str, Any], path: Path) -> None:
        """Give a file to Glance as it is."""
        volume_utils.upload_volume(
            context, image_service,
            # It is in the container already, so nothing is left to convert.
            {**image_meta, 'container_format': 'bare'}, str(path), volume,
            volume_format=image_meta['disk_format'], run_as_root=False)

    @contextmanager
    def _raw(self, volume: objects.Volume) -> Iterator[Path]:
        """Yield a raw file that shows the volume."""
        with self._backend.locked(volume.id):
            attached = bool(self._backend.fresh(volume).volume_attachment)
        if not attached:
            with self._shown(volume) as path:
                yield path
            return
        with temporary.snapshot_of_upload(self._backend, volume) as snapshot:
            with self._shown(volume, snapshot) as path:
                yield path

    @contextmanager
    def _shown(self, volume: objects.Volume,
               snapshot: objects.Snapshot | None = None) -> Iterator[Path]:
        connector = {'host': socket.gethostname()}
        views = self._views
        with self._backend.locked(volume.id), failures.translated():
            found = (views.open(volume, connector) if snapshot is None
                     else views.open_snapshot(snapshot, connector))
        data = found['data']
        try:
            if 'device_path' in data:
                yield Path(data['device_path'])
            else:
                yield self._backend.folder(volume) / data['name']
        finally:
            with self._backend.locked(volume.id), failures.translated():
                if snapshot is None:
                    views.close(volume, connector)
                else:
                    views.close_snapshot(snapshot, connector)


class Download:
    """Writes images into volumes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def run(self, context: cinder_context.RequestContext,
            volume: objects.Volume, image_service: Any, image_id: str,
            encrypt: bool = False) -> None:
        """Make an image the content of a volume.

        :param encrypt: the image is plain and the volume is not.  Else an
            encrypted volume's image is a container with the volume's key.
        :raises SnapshotsBelow: their content would change.
        :raises VolumeBackendAPIException: the volume is encrypted, its
            layer is not.
        """
        with self._backend.locked(volume.id), failures.translated():
            fresh = self._backend.fresh(volume)
            operations = self._backend.settled(fresh)
            chain = self._lone(fresh, native(operations.state).chain)
            secrets.check_layers(fresh, chain)
            files = self._backend.files(fresh)
            place = files.path(chain.active.name)
            aside = place.with_name(place.name + '.tmp')
            tool = ImageTool(files.folder, self._backend.secret(fresh))
            try:
                native(blank, aside, place.stat())
                if chain.active.encrypted:
                    self._fetch_encrypted(context, tool, fresh, aside,
                                          image_service, image_id, encrypt)
                else:
                    self._fetch(context, fresh, aside, chain.active.format,
                                image_service, image_id)
                native(_take_place, tool, shown(chain), files, aside,
                       size_bytes(fresh))
            finally:
                aside.unlink(missing_ok=True)
            self._backend.note(fresh, native(operations.state))

    def _lone(self, volume: objects.Volume, chain: Chain) -> Chain:
        """Return the chain if it is one layer."""
        count = len(chain.layers) - 1
        left = objects.SnapshotList.get_all_for_volume(
            self._backend.context(), volume.id)
        if count or left:
            raise SnapshotsBelow(volume=volume.id,
                                 count=max(count, len(left)))
        return chain

    def _fetch(self, context: cinder_context.RequestContext,
               volume: objects.Volume, target: Path, form: str,
               image_service: Any, image_id: str) -> None:
        """Write an image into a file of a format, after Cinder's checks."""
        image_utils.fetch_to_volume_format(
            context, image_service, image_id, str(target), str(form),
            self._backend.configuration.volume_dd_blocksize,
            size=volume.size,
            run_as_root=self._backend.driver._execute_as_root)

    def _fetch_encrypted(self, context: cinder_context.RequestContext,
                         tool: ImageTool, volume: objects.Volume,
                         target: Path, image_service: Any, image_id: str,
                         encrypt: bool) -> None:
        """Write an image into an encrypted file, by way of this host."""
        with image_utils.temporary_file(
                prefix=f'image_encrypt_{image_id}_') as local:
            if encrypt:
                self._fetch(context, volume, Path(local), _RAW,
                            image_service, image_id)
            else:
                image_utils.fetch(context, image_service, image_id, local,
                                  None, None)
            native(tool.rebuild, Path(local), target, True, not encrypt)


def _take_place(tool: ImageTool, layer: Image, files: VolumeFiles,
                aside: Path, size: int) -> None:
    """Give a new file the volume's size, and the place of its layer."""
    place = files.path(layer.name)
    made = Image(aside.name, layer.format, 0, layer.encrypted)
    tool.resize(made, size, aside)
    with denied_to_qemu(place):
        if opened_by_qemu(place):
            raise failures.StillOpen(file=layer.name, volume=files.name)
        fd = os.open(aside, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            dress(fd, place.stat())
            os.fsync(fd)
        finally:
            os.close(fd)
        aside.rename(place)
        sync_folder(place.parent)


def _convert(source: Path, target: Path, wanted: str) -> None:
    form = image_utils.fixup_disk_format(wanted)
    packed = (cfg.CONF.image_compress_on_upload
              and form in image_utils.COMPRESSIBLE_IMAGE_FORMATS)
    ImageTool(source.parent).transform(
        Image(source.name, Format.RAW), target.absolute(),
        'vpc' if form == 'vhd' else form, packed)
