# SPDX-License-Identifier: Apache-2.0
"""Stands for Glance: one raw image, downloaded or uploaded.

Cinder's image service is a client of another service; this one has the
methods of it that the drivers' code calls.
"""

from __future__ import annotations

from pathlib import Path
import tempfile
from typing import Any
from typing import BinaryIO

from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.content import Content

MIB = 1 << 20


class Glance:
    """One image.

    :ivar uploaded: content of what was uploaded.
    """

    ID = '3a1e0a34-0000-4000-8000-000000000001'

    def __init__(self, byte: int = 0x77, size: int = 4 * MIB) -> None:
        self._data = bytes([byte]) * size
        self.uploaded: Content | None = None
        #: Set by Cinder's helper of temporary files.
        self.temp_images: object = None

    @property
    def meta(self) -> dict[str, Any]:
        """What Glance tells of the image."""
        return {'id': self.ID, 'name': 'image', 'status': 'active',
                'disk_format': 'raw', 'container_format': 'bare',
                'size': len(self._data), 'virtual_size': len(self._data),
                'min_disk': 0, 'min_ram': 0, 'properties': {},
                'visibility': 'public', 'protected': False}

    def show(self, context: object, image_id: str) -> dict[str, Any]:
        """As Cinder's image service."""
        return self.meta

    def get_location(self, context: object, image_id: str
                     ) -> tuple[None, None]:
        """As Cinder's image service; the image is nowhere else."""
        return None, None

    def download(self, context: object, image_id: str, data: BinaryIO,
                 *args: object) -> None:
        """As Cinder's image service."""
        data.write(self._data)

    def update(self, context: object, image_id: str, meta: dict[str, Any],
               data: BinaryIO, **kwargs: object) -> None:
        """As Cinder's image service: takes an upload."""
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder, 'raw')
            with open(raw, 'wb') as file:
                while block := data.read(MIB):
                    if block.count(0) == len(block):
                        file.seek(len(block), 1)
                    else:
                        file.write(block)
                file.truncate()
            self.uploaded = content.of_raw(raw)
