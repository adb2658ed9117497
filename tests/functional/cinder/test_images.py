# SPDX-License-Identifier: Apache-2.0
"""Images into volumes and out of them; Glance is a folder."""

from __future__ import annotations

import subprocess
from typing import Any

from cinder import exception
from cinder.volume import volume_utils
import pytest

from assisted_snapshots.cinder_driver import temporary
from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.glance import download
from tests.functional.cinder.lab.glance import ImageService
from tests.functional.cinder.lab.glance import picture
from tests.functional.cinder.lab.glance import upload
from tests.functional.cinder.lab.views import gone
from tests.functional.cinder.lab.world import World

MIB = 1 << 20
GIB = 1 << 30


@pytest.fixture
def chain(cinder: World) -> Any:
    """A volume with two snapshots."""
    volume = cinder.volume()
    cinder.write(volume, 0x11)
    first = cinder.snapshot(volume)
    cinder.write(volume, 0x22, MIB)
    second = cinder.snapshot(volume)
    cinder.write(volume, 0x33, 2 * MIB)
    return volume, first, second


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_upload_with_snapshots(cinder: World, glance: ImageService,
                               chain: Any, fmt: str) -> None:
    volume, *snapshots = chain
    image = upload(cinder, cinder.driver, glance, volume, fmt)
    assert image['status'] == 'active'
    assert content.of(glance.path(image), fmt) == cinder.content(volume)
    # Nothing was staged, beside or before.
    assert list((cinder.folder / 'state/conversion').iterdir()) == []
    gone(cinder)
    cinder.audit(volume, *snapshots)


def test_upload_of_qcow2(cinder: World, glance: ImageService) -> None:
    volume = cinder.volume(driver=cinder.make_driver(nfs_qcow2_volumes=True))
    cinder.write(volume, 0x11)
    image = upload(cinder, cinder.driver, glance, volume, 'raw')
    assert content.of_raw(glance.path(image)) == cinder.content(volume)
    gone(cinder)


@pytest.mark.parametrize('snapshots', [0, 1])
def test_upload_of_guest_written_header(
        cinder: World, glance: ImageService, snapshots: int) -> None:
    """The image holds what the guest wrote, not what that names."""
    volume = cinder.volume()
    secret = cinder.folder / 'secret'
    secret.write_bytes(b'\x5a' * 65536)
    header = cinder.folder / 'header'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', secret,
                    '-F', 'raw', header, '65536'], check=True)
    with open(cinder.share / volume.name, 'r+b') as file:
        file.write(header.read_bytes())
    for _ in range(snapshots):
        cinder.snapshot(volume)
    image = upload(cinder, cinder.driver, glance, volume, 'qcow2')
    found = content.of(glance.path(image), 'qcow2')
    assert found == cinder.content(volume)
    assert found.size == GIB


@pytest.mark.parametrize('qcow2', [False, True])
@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_download(cinder: World, glance: ImageService, fmt: str,
                  qcow2: bool) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=qcow2)
    image = glance.add(fmt, picture(cinder.folder, fmt))
    volume = download(cinder, glance, image, driver)
    cinder.audit(volume)
    assert cinder.disk(volume).active_format == ('qcow2' if qcow2 else 'raw')
    found = cinder.content(volume)
    assert found.bytes_at(MIB) == content.digest(0x42)
    assert len(found.blocks) == content.LENGTH // 4096
    driver.extend_volume(volume, 2)  # its format is the one recorded
    assert cinder.content(volume).size == 2 * GIB
    assert list(cinder.share.glob('*.tmp')) == []


def test_too_large(cinder: World, glance: ImageService) -> None:
    image = glance.add('qcow2', picture(cinder.folder, 'qcow2', 2 * GIB))
    row = cinder.row()
    volume = cinder.settle(row, cinder.driver.create_volume(row),
                           'downloading')
    with pytest.raises(exception.ImageUnacceptable):
        cinder.driver.copy_image_to_volume(cinder.context, volume, glance,
                                           image['id'])
    cinder.become(volume, 'available')
    cinder.audit(volume)


def test_reimage_with_snapshots(cinder: World, glance: ImageService,
                                chain: Any) -> None:
    volume, *snapshots = chain
    expected = cinder.content(volume)
    image = glance.add('raw', picture(cinder.folder, 'raw'))
    volume = cinder.become(volume, 'downloading')
    with pytest.raises(exception.ImageCopyFailure, match='2 snapshots'):
        volume_utils.copy_image_to_volume(
            cinder.driver, cinder.context, volume, image, (None, None),
            glance, disable_sparse=True)
    assert cinder.content(volume) == expected
    cinder.become(volume, 'available')
    cinder.audit(volume, *snapshots)


def test_reimage(cinder: World, glance: ImageService) -> None:
    """All of the old content is gone."""
    volume = cinder.volume()
    cinder.write(volume, 0x99, 512 * MIB)
    image = glance.add('qcow2', picture(cinder.folder, 'qcow2'))
    volume = cinder.become(volume, 'downloading')
    cinder.driver.copy_image_to_volume(cinder.context, volume, glance,
                                       image['id'], disable_sparse=True)
    volume = cinder.become(volume, 'available')
    found = cinder.content(volume)
    assert found.bytes_at(512 * MIB) == ''
    assert found.bytes_at(MIB) == content.digest(0x42)
    cinder.audit(volume)


def test_snapshot_of_a_dead_upload(cinder: World) -> None:
    """It lasts as long as the upload, and then recovery removes it."""
    backend = cinder.driver.backend
    volume = cinder.become(cinder.volume(), 'uploading')
    held = temporary.snapshot_of_upload(backend, volume)
    snapshot = held.__enter__()
    with backend.locked(volume.id):
        assert temporary.sweep(backend, backend.fresh(volume)) == []
    volume = cinder.become(volume, 'available')  # as the manager starts
    cinder.audit(volume, snapshot)
    with backend.locked(volume.id):
        [told] = temporary.sweep(backend, backend.fresh(volume))
    assert snapshot.id in told
    held.__exit__(None, None, None)
    cinder.audit(volume)
