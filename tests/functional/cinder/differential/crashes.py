# SPDX-License-Identifier: Apache-2.0
"""Situations after a crash, and in the middle of somebody else's work."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

from cinder import exception
from cinder import objects
from oslo_concurrency import processutils

from tests.functional.cinder.differential import watch
from tests.functional.cinder.differential.scenario import expect
from tests.functional.cinder.differential.scenario import failing
from tests.functional.cinder.differential.scenario import scenario
from tests.functional.cinder.differential.scenario import Side
from tests.functional.cinder.lab import process
from tests.functional.cinder.lab.process import Joined
from tests.functional.lab.audit import AuditError

MIB = 1 << 20


class _Child:
    """What the process that is killed has: the same world, a driver."""

    def __init__(self, world: Joined, path: str) -> None:
        self.world = world
        self.driver = world.make_driver(path, name='killed')

    def snapshot(self, snapshot_id: str) -> Any:
        return self.world.fresh(objects.Snapshot(id=snapshot_id))


def _snapshot_of_a_volume(world: Joined, path: str) -> tuple[str, str]:
    """Make a volume and a snapshot; their ids."""
    driver = world.make_driver(path, name='before')
    volume = world.volume(driver=driver)
    world.write(volume, 0x11)
    snapshot = world.snapshot(volume, driver=driver)
    world.write(volume, 0x22, MIB)
    return volume.id, snapshot.id


def _creating(world: Joined, path: str, snapshot_id: str) -> None:
    """Take a snapshot; killed once its overlay is there."""
    child = _Child(world, path)
    snapshot = child.snapshot(snapshot_id)
    overlay = world.share / f'{snapshot.volume_name}.{snapshot_id}'
    with watch.watching(lambda _told: watch.die(overlay.exists())):
        child.driver.create_snapshot(snapshot)


def _deleting(world: Joined, path: str, snapshot_id: str, at: str) -> None:
    """Delete a snapshot; killed in front of a command."""
    child = _Child(world, path)
    with watch.watching(lambda told: watch.die(at in told)):
        child.driver.delete_snapshot(child.snapshot(snapshot_id))


def _killed_deleting(side: Side, snapshot: Any, at: str) -> None:
    snapshot.status = 'deleting'
    snapshot.save()
    process.run(_deleting, side.world.folder, side.path, snapshot.id, at)


@scenario('W9', 'A guest attaches a volume in the middle of a snapshot')
def attach_race(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    row = world.snapshot_row(volume)
    begun, done = threading.Event(), threading.Event()
    told: list[str] = []

    def hold(command: str) -> None:
        if 'qemu-img create' in command and not begun.is_set():
            begun.set()
            done.wait(3)

    def attach() -> None:
        begun.wait(60)
        connected = world.attach(volume, driver=driver)
        told.append(connected.connection_info['name'])
        done.set()

    guest = threading.Thread(target=attach)
    guest.start()
    with watch.watching(hold):
        world.take(row, driver)
    guest.join()
    active = world.disk(volume).info['active']
    expect(told == [active], 'the guest writes into the layer that the '
                             'snapshot shows')


@scenario('W11', '.info was cut off by a crash; the volume is attached')
def cut_info(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    snapshot = world.snapshot(volume, driver=driver)
    (world.share / f'{volume.name}.info').write_text('')
    with failing(json.JSONDecodeError, means='nothing can be done with the '
                                             'volume: JSONDecodeError'):
        attachment = world.attach(volume, driver=driver)
    expect(attachment.connection_info['name'] == f'{volume.name}.'
           f'{snapshot.id}', 'the guest is given another layer')


@scenario('W12', 'cinder-volume is killed while a snapshot is deleted, '
                 'between copying and re-pointing; the delete is repeated')
def killed_before_rebase(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    world.write(volume, 0x11)
    first = world.snapshot(volume, driver=driver)
    world.write(volume, 0x22, MIB)
    second = world.snapshot(volume, driver=driver)
    world.write(volume, 0x33, 2 * MIB)
    shown, held = world.content(volume), world.snapshot_content(second)
    _killed_deleting(side, first, 'qemu-img rebase')
    with failing(processutils.ProcessExecutionError, FileNotFoundError,
                 means='the chain is broken for good: a layer was removed '
                       'that another one refers to'):
        world.delete(first, driver=side.driver())
    expect(world.content(volume) == shown, 'the content is another')
    expect(world.snapshot_content(second) == held, 'the snapshot changed')
    world.audit(volume, second)


@scenario('W13', 'cinder-volume is killed when the overlay of a new snapshot '
                 'is there; the snapshot is deleted')
def killed_before_info(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    world.write(volume, 0x11)
    shown = world.content(volume)
    row = world.snapshot_row(volume)
    process.run(_creating, world.folder, side.path, row.id)
    row = world.fresh(row)
    row.status = 'error'
    row.save()
    world.delete(row, driver=side.driver())
    with failing(AuditError, means='the overlay stays on the share for '
                                   'ever'):
        world.audit(volume)
    expect(world.content(volume) == shown, 'the content is another')


@scenario('W16', 'cinder-volume is killed while it deletes a snapshot, and '
                 'starts again')
def killed_deleting(side: Side) -> None:
    world = side.world
    # No other service of this backend may be alive: it would be trusted.
    volume_id, snapshot_id = process.run(_snapshot_of_a_volume, world.folder,
                                         side.path)
    volume = world.fresh(objects.Volume(id=volume_id))
    shown = world.content(volume)
    _killed_deleting(side, world.fresh(objects.Snapshot(id=snapshot_id)),
                     'qemu-img')
    side.manager()
    process.quiet()
    left = objects.SnapshotList.get_all_for_volume(world.admin, volume.id)
    expect([row.status for row in left] in ([], ['available']),
           'the snapshot is "deleting" until an administrator resets it')
    expect(world.content(volume) == shown, 'the content is another')


@scenario('W17', 'A volume is cloned, and the overlay of its temporary '
                 'snapshot cannot be made')
def failed_clone(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    world.write(volume, 0x11)

    def refuse(command: str) -> None:
        if 'qemu-img create' in command:
            raise OSError(28, 'No space left on device')

    with (watch.watching(refuse),
          contextlib.suppress(OSError, exception.CinderException)):
        world.clone(volume, driver=driver)
    left = objects.SnapshotList.get_all_for_volume(world.admin, volume.id)
    expect(not left, 'the temporary snapshot stays in the database; the '
                     'volume cannot be deleted')
    world.audit(volume)


