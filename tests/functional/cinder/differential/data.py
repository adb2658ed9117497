# SPDX-License-Identifier: Apache-2.0
"""Situations in which data are lost, mixed up or not there."""

from __future__ import annotations

import contextlib

from cinder import exception

from tests.functional.cinder.differential.glance import Glance
from tests.functional.cinder.differential.scenario import expect
from tests.functional.cinder.differential.scenario import failing
from tests.functional.cinder.differential.scenario import scenario
from tests.functional.cinder.differential.scenario import Side
from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.backup import BackupService
from tests.functional.cinder.lab.quick_luks import quick_luks
from tests.functional.lab.images import ImageToolError

MIB = 1 << 20
GIB = 1 << 30


@scenario('W1', 'The newest of two snapshots of an encrypted volume is '
                'deleted')
def encrypted_delete(side: Side) -> None:
    with quick_luks():
        world, driver = side.world, side.driver()
        volume = world.volume(encrypted=True, driver=driver)
        world.write(volume, 0x11)
        first = world.snapshot(volume, driver=driver)
        world.write(volume, 0x22)
        second = world.snapshot(volume, driver=driver)
        world.write(volume, 0x33)
        world.delete(second, driver=driver)
        shown, held = world.content(volume), world.snapshot_content(first)
    expect(shown.bytes_at(0) == content.digest(0x33),
           'the guest loses what it wrote last')
    expect(held.bytes_at(0) == content.digest(0x11),
           'the other snapshot changes')


@scenario('W3', "A volume with a snapshot is backed up by Cinder's backup "
                'service, and restored')
def backup(side: Side) -> None:
    world, driver = side.world, side.manager().driver
    volume = world.volume(driver=driver)
    world.write(volume, 0x11)
    world.snapshot(volume, driver=driver)
    world.write(volume, 0x22, 4 * MIB)
    service = BackupService(world)
    try:
        saved = service.create(volume)
        restored = service.restore(saved, world.volume(driver=driver))
    finally:
        service.close()
    expect(world.content(restored).blocks == world.content(volume).blocks,
           'the bytes of the qcow2 overlay are saved, without the data '
           'below it')


@scenario('W4', "A volume is reverted to its newest snapshot by Cinder's "
                'volume manager')
def revert(side: Side) -> None:
    world, manager = side.world, side.manager()
    driver = manager.driver
    volume = world.volume(driver=driver)
    world.write(volume, 0x11)
    snapshot = world.snapshot(volume, driver=driver)
    held = world.snapshot_content(snapshot)
    world.write(volume, 0x22)
    volume = world.fresh(volume)
    volume.status = 'reverting'
    volume.save()
    snapshot.status = 'restoring'
    snapshot.save()
    manager.revert_to_snapshot(world.context, volume, snapshot)
    with failing(ImageToolError, means='the active layer is overwritten '
                                       'with raw data'):
        expect(world.content(volume) == held, 'the content is another')
    world.audit(volume, snapshot)


@scenario('W5', 'A volume of 2 GiB is made of a snapshot of 1 GiB')
def larger(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    snapshot = world.snapshot(volume, driver=driver)
    made = world.from_snapshot(snapshot, 2, driver=driver)
    expect(world.content(made).size == 2 * GIB, 'it has 1 GiB')
    made = world.clone(volume, 2, driver=driver)
    expect(world.content(made).size == 2 * GIB, 'the clone has 1 GiB')


@scenario('W10', 'A volume with a snapshot is re-imaged')
def reimage(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    world.write(volume, 0x11)
    snapshot = world.snapshot(volume, driver=driver)
    held = world.snapshot_content(snapshot)
    with contextlib.suppress(exception.CinderException):
        driver.copy_image_to_volume(world.context, world.fresh(volume),
                                    Glance(0x22), Glance.ID)
    expect(world.snapshot_content(snapshot) == held,
           "the snapshot's data are replaced")
