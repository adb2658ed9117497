# SPDX-License-Identifier: Apache-2.0
"""Images of encrypted volumes and for them; Glance is a folder.

An image of one is a LUKS container, whose key Cinder names in the image.
"""

from __future__ import annotations

from pathlib import Path
import subprocess
from typing import Any

from cinder import exception
from cinder.volume import volume_utils
import pytest

from tests.functional.cinder.lab import content
from tests.functional.cinder.lab import deployment
from tests.functional.cinder.lab.backup import PATTERNS
from tests.functional.cinder.lab.content import assert_sealed
from tests.functional.cinder.lab.content import Content
from tests.functional.cinder.lab.glance import download
from tests.functional.cinder.lab.glance import ImageService
from tests.functional.cinder.lab.glance import PICTURE
from tests.functional.cinder.lab.glance import picture
from tests.functional.cinder.lab.glance import upload
from tests.functional.cinder.lab.views import gone
from tests.functional.cinder.lab.world import KEY_ID
from tests.functional.cinder.lab.world import World

MIB = 1 << 20
GIB = 1 << 30
SECRET = deployment.FIXED_KEY.encode()

pytestmark = pytest.mark.usefixtures('quick_stretching')


def in_the_clear(cinder: World, byte: int) -> list[Path]:
    """Files that hold a pattern as it was written, wherever Cinder works."""
    return [path for place in (cinder.share, cinder.folder / 'state')
            for path in place.rglob('*')
            if path.is_file() and bytes([byte]) * 512 in path.read_bytes()]


def bare(cinder: World) -> Any:
    """A volume whose file upstream has made: LUKS without qcow2."""
    source = cinder.volume(encrypted=True, driver=cinder.upstream)
    cinder.write(source, 0x10)
    copy = cinder.from_snapshot(
        cinder.snapshot(source, driver=cinder.upstream),
        driver=cinder.upstream)
    with open(cinder.share / copy.name, 'rb') as file:
        assert file.read(6) == b'LUKS\xba\xbe'
    return copy


def is_picture(found: Content) -> bool:
    """The picture, zeroes behind it, and nothing of what was there."""
    return (found.size == GIB
            and len(found.blocks) == content.LENGTH // 4096
            and found.bytes_at(MIB) == content.digest(PICTURE))


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_a_plain_image(cinder: World, glance: ImageService, fmt: str) -> None:
    image = glance.add(fmt, picture(cinder.folder, fmt))
    volume = download(cinder, glance, image, encrypted=True)
    assert in_the_clear(cinder, PICTURE) == []
    assert is_picture(cinder.content(volume))
    cinder.audit(volume)
    snapshot = cinder.snapshot(volume)
    cinder.audit(volume, snapshot)


def test_an_image_of_a_volume(cinder: World, glance: ImageService) -> None:
    """Uploaded with snapshots, and what is made of it."""
    volume = cinder.volume(encrypted=True)
    cinder.write(volume, 0x10, GIB - MIB)
    first = cinder.snapshot(volume)
    cinder.write(volume, 0x11)
    second = cinder.snapshot(volume)
    cinder.write(volume, 0x12, 5 * MIB)
    expected = cinder.content(volume)
    image = upload(cinder, cinder.driver, glance, volume, 'raw')
    gone(cinder)
    cinder.audit(volume, first, second)
    data = glance.path(image)
    assert_sealed(data, *PATTERNS)
    assert content.of(data, 'luks', SECRET) == expected
    # The API names a clone of the key; the manager has one key only.
    glance.update(None, image['id'], {'cinder_encryption_key_id': KEY_ID})
    made = download(cinder, glance, glance.show(None, image['id']),
                    encrypted=True)
    assert cinder.content(made) == expected
    cinder.audit(made)
    for byte in PATTERNS:
        assert in_the_clear(cinder, byte) == []


class TestBareContainers:
    """Upstream's, which nobody has converted yet."""

    def test_download(self, cinder: World, glance: ImageService) -> None:
        volume = cinder.become(bare(cinder), 'downloading')
        image = glance.add('raw', picture(cinder.folder, 'raw'))
        volume_utils.copy_image_to_volume(
            cinder.driver, cinder.context, volume, image, (None, None),
            glance)
        assert in_the_clear(cinder, PICTURE) == []
        volume = cinder.become(volume, 'available')
        assert is_picture(cinder.content(volume))
        cinder.audit(volume)

    def test_download_with_an_attachment(
            self, cinder: World, glance: ImageService) -> None:
        """It is not converted then, and nothing is written in its place."""
        volume = bare(cinder)
        cinder.attach(volume, driver=cinder.upstream)
        before = (cinder.share / volume.name).read_bytes()
        volume = cinder.become(volume, 'downloading')
        image = glance.add('raw', picture(cinder.folder, 'raw'))
        with pytest.raises(exception.ImageCopyFailure, match='encrypted'):
            volume_utils.copy_image_to_volume(
                cinder.driver, cinder.context, volume, image, (None, None),
                glance)
        assert (cinder.share / volume.name).read_bytes() == before
        assert in_the_clear(cinder, PICTURE) == []

    def test_upload(self, cinder: World, glance: ImageService) -> None:
        volume = bare(cinder)
        image = upload(cinder, cinder.driver, glance, volume, 'raw')
        assert_sealed(glance.path(image), *PATTERNS)
        assert content.of(glance.path(image), 'luks',
                          SECRET) == cinder.content(volume)
        gone(cinder)
        cinder.audit(volume)


def test_a_layer_in_the_clear(cinder: World, glance: ImageService) -> None:
    """It is neither shown nor replaced as what it should not be."""
    volume = cinder.volume(encrypted=True)
    path = cinder.share / volume.name
    path.unlink()
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path, '1G'],
                   check=True)
    image = glance.add('raw', picture(cinder.folder, 'raw'))
    cinder.become(volume, 'downloading')
    with pytest.raises(exception.CinderException, match='no encrypted'):
        cinder.driver.copy_image_to_encrypted_volume(
            cinder.context, volume, glance, image['id'])
    cinder.become(volume, 'available')
    with pytest.raises(exception.CinderException, match='no encrypted'):
        upload(cinder, cinder.driver, glance, volume, 'raw')
    assert in_the_clear(cinder, PICTURE) == []
