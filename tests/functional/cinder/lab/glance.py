# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Glance: images are files of one folder."""

from __future__ import annotations

from pathlib import Path
import shutil
import subprocess
from typing import Any
from typing import IO
import uuid

from cinder.volume import volume_utils

from tests.functional.cinder.lab.world import World
from tests.functional.lab import images

MIB = 1 << 20

#: What :func:`picture` shows.
PICTURE = 0x42


class ImageService:
    """The part of Cinder's image service that drivers use."""

    #: Kept here by Cinder's cache of what is being downloaded.
    temp_images: Any = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._images: dict[str, dict[str, Any]] = {}

    def add(self, disk_format: str, data: Path | None = None,
            **values: Any) -> dict[str, Any]:
        """An image, queued if it has no data; what Cinder knows of it."""
        image_id = str(uuid.uuid4())
        self._images[image_id] = {
            'id': image_id, 'disk_format': disk_format, 'size': 0,
            'container_format': 'bare', 'status': 'queued',
            'properties': {}, **values}
        if data is not None:
            with open(data, 'rb') as file:
                self.update(None, image_id, {}, file)
        return self.show(None, image_id)

    def path(self, image: dict[str, Any]) -> Path:
        """The data of an image."""
        return self._folder / str(image['id'])

    def show(self, _context: object, image_id: str) -> dict[str, Any]:
        """What is known of an image."""
        return dict(self._images[image_id])

    def get_location(self, _context: object, _image_id: str
                     ) -> tuple[None, None]:
        """Where else it could be read."""
        return None, None

    def download(self, _context: object, image_id: str,
                 data: IO[bytes]) -> None:
        """Write the data of an image."""
        with open(self._folder / image_id, 'rb') as file:
            shutil.copyfileobj(file, data, 1 << 20)

    def update(self, _context: object, image_id: str,
               image_meta: dict[str, Any], data: Any = None,
               **_options: object) -> dict[str, Any]:
        """Change what is known of an image, or give it data."""
        self._images[image_id].update(image_meta)
        if data is not None:
            with open(self._folder / image_id, 'wb') as file:
                while part := data.read(1 << 20):
                    file.write(part)
            self._images[image_id].update(
                status='active', size=(self._folder / image_id).stat().st_size)
        return self.show(None, image_id)


def upload(cinder: World, driver: Any, glance: ImageService, volume: Any,
           disk_format: str) -> dict[str, Any]:
    """Upload a volume as the volume manager does; the image."""
    image = glance.add(disk_format)
    before = cinder.fresh(volume).status
    volume = cinder.become(volume, 'uploading')
    driver.copy_volume_to_image(cinder.context, volume, glance, image)
    cinder.become(volume, before)
    return glance.show(None, image['id'])


def download(cinder: World, glance: ImageService, image: dict[str, Any],
             driver: Any = None, **values: Any) -> Any:
    """Make a volume of an image as the volume manager does."""
    driver = driver or cinder.driver
    row = cinder.row(**values)
    volume = cinder.settle(row, driver.create_volume(row), 'downloading')
    volume_utils.copy_image_to_volume(
        driver, cinder.context, volume, image, (None, None), glance)
    return cinder.become(volume, 'available')


def picture(folder: Path, fmt: str, size: int = 64 * MIB) -> Path:
    """An image file with some content."""
    path = folder / f'picture.{fmt}'
    subprocess.run(['qemu-img', 'create', '-q', '-f', fmt, path, str(size)],
                   check=True)
    images.io(path, fmt, [f'write -P {PICTURE} {MIB} 64k'])
    return path
