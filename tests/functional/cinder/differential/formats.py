# SPDX-License-Identifier: Apache-2.0
"""Situations in which somebody must know the format of a file."""

from __future__ import annotations

from cinder import exception
from oslo_concurrency import processutils

from tests.functional.cinder.differential.glance import Glance
from tests.functional.cinder.differential.scenario import expect
from tests.functional.cinder.differential.scenario import failing
from tests.functional.cinder.differential.scenario import scenario
from tests.functional.cinder.differential.scenario import Side
from tests.functional.cinder.lab.quick_luks import quick_luks
from tests.functional.lab import images

MIB = 1 << 20


def _magic(side: Side, name: str) -> bytes:
    with open(side.world.share / name, 'rb') as file:
        return file.read(4)


@scenario('W2', 'An encrypted volume is attached')
def encrypted_format(side: Side) -> None:
    # Ours hands it only to a Nova with the hooks, as the operator says here.
    world, driver = side.world, side.driver(assisted_agent='always')
    with quick_luks():
        volume = world.volume(encrypted=True, driver=driver)
    attachment = world.attach(volume, driver=driver)
    expect(attachment.connection_info['format'] == 'qcow2',
           'Nova is told that the qcow2 file is raw')


@scenario('W6', 'An image is copied to a volume where volumes are qcow2; '
                'the volume is extended')
def image_format(side: Side) -> None:
    world, driver = side.world, side.driver(nfs_qcow2_volumes=True)
    volume = world.volume(driver=driver)
    driver.copy_image_to_volume(world.context, world.fresh(volume),
                                Glance(), Glance.ID)
    with failing(processutils.ProcessExecutionError,
                 means='the file is raw, the database says qcow2, and it '
                       'cannot be extended'):
        driver.extend_volume(world.fresh(volume), 2)
    is_qcow2 = _magic(side, volume.name) == b'QFI\xfb'
    expect(is_qcow2 == (world.formats(volume)['format'] == 'qcow2'),
           'the database has another format than the file')


@scenario('W8', 'A volume with a snapshot is uploaded to an image')
def upload(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    world.write(volume, 0x11)
    world.snapshot(volume, driver=driver)
    world.write(volume, 0x22, 4 * MIB)
    shown = world.content(volume)
    glance = Glance()
    with failing(exception.Invalid, means='it fails: "Unacceptable '
                                          'parameters."'):
        driver.copy_volume_to_image(world.context, world.fresh(volume),
                                    glance, glance.meta)
    expect(glance.uploaded == shown, 'the image has another content')


@scenario('W19', 'A guest writes a qcow2 image onto its raw disk; a snapshot '
                 'is taken')
def guest_header(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    inner = world.folder / 'inner'
    images.create(inner, 'qcow2', 700 * MIB)
    images.io(inner, 'qcow2', [f'write -P 51 0 {MIB}'])
    with open(world.share / volume.name, 'r+b') as disk:
        disk.write(inner.read_bytes())
    written = world.content(volume)
    snapshot = world.snapshot(volume, driver=driver)
    expect(world.content(volume) == written,
           "the guest sees the inner image's content instead of its own")
    expect(world.snapshot_content(snapshot) == written,
           'the snapshot has another content')
