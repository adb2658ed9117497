# SPDX-License-Identifier: Apache-2.0
"""A folder that stands for a mounted share, and the volumes in it."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
import json
from pathlib import Path
import subprocess
import uuid

from tests.functional.lab import images
from tests.functional.lab import namespace

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True)
class Volume:
    """A volume as Cinder would name it, and what the test knows of it.

    :ivar format: of the base layer.
    :ivar secret: passphrase where the volume is LUKS-encrypted.
    """

    folder: Path
    id: str
    format: str
    size: int
    secret: bytes | None = None
    secret_uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def name(self) -> str:
        """``volume-<id>``, the base layer's file."""
        return f'volume-{self.id}'

    @property
    def path(self) -> Path:
        """The base layer."""
        return self.folder / self.name

    @property
    def info(self) -> dict[str, str]:
        """Content of the .info file; empty if there is none."""
        file = self.folder / f'{self.name}.info'
        if not file.exists():
            return {}
        content: dict[str, str] = json.loads(file.read_text())
        return content

    @property
    def active(self) -> Path:
        """The layer that takes the guest's writes, after .info."""
        return self.folder / self.info.get('active', self.name)

    @property
    def active_format(self) -> str:
        """Format of :attr:`active`: an overlay is always qcow2."""
        return self.format if self.active == self.path else 'qcow2'

    def layer(self, snapshot_id: str) -> Path:
        """Where the overlay of a snapshot belongs."""
        return self.folder / f'{self.name}.{snapshot_id}'

    def files(self) -> set[str]:
        """Every file of the volume on the share."""
        return {p.name for p in self.folder.iterdir()
                if p.name == self.name or p.name.startswith(f'{self.name}.')}


class Share:
    """A share's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def volume(self, fmt: str = 'qcow2', size: int = 64 * MIB, *,
               encrypted: bool = False, volume_id: str | None = None
               ) -> Volume:
        """Make an empty volume."""
        secret = uuid.uuid4().hex.encode() if encrypted else None
        volume = Volume(self.folder, volume_id or str(uuid.uuid4()), fmt,
                        size, secret)
        images.create(volume.path, fmt, size, secret=secret)
        return volume

    def ext4_volume(self, fmt: str = 'qcow2', size: int = 64 * MIB
                    ) -> Volume:
        """Make a volume that holds an empty ext4 file system."""
        volume = Volume(self.folder, str(uuid.uuid4()), fmt, size)
        raw = self.folder / f'{volume.name}.mkfs'
        make_ext4(raw, size)
        images.from_raw(raw, volume.path, fmt)
        raw.unlink()
        return volume

    def overlay(self, volume: Volume, snapshot_id: str) -> Path:
        """Make the overlay of a snapshot by hand, not touching .info."""
        overlay = volume.layer(snapshot_id)
        images.create(overlay, 'qcow2', backing=volume.active,
                      backing_format=volume.active_format,
                      secret=volume.secret)
        return overlay


class SmallShare(Share):
    """A share of its own small file system, which can run full.

    It is an ext4 image on a loop device, so it needs root.
    """

    def __init__(self, folder: Path, size: int) -> None:
        assert namespace.privileged(), 'a share that can run full needs root'
        super().__init__(folder)
        self._image = folder.with_name(folder.name + '.image')
        make_ext4(self._image, size)
        namespace.mount_image(self._image, folder)

    def close(self) -> None:
        """Unmount it."""
        namespace.unmount(self.folder)


def make_ext4(path: Path, size: int) -> None:
    """Make a raw image with an empty ext4 file system."""
    with open(path, 'wb') as image:
        image.truncate(size)
    subprocess.run(['/sbin/mke2fs', '-q', '-F', '-t', 'ext4', '-m', '0',
                    path], check=True)
