# SPDX-License-Identifier: Apache-2.0
"""Backup and restore by Cinder's own backup service, content compared."""

from __future__ import annotations

from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.backup import BackupService
from tests.functional.cinder.lab.backup import history
from tests.functional.cinder.lab.glance import ImageService
from tests.functional.cinder.lab.glance import upload
from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.views import gone
from tests.functional.cinder.lab.world import World
from tests.functional.lab.agent import Agent
from tests.functional.lab.content import prove
from tests.functional.lab.guest import Moment
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.stage import Stage

MIB = 1 << 20
GIB = 1 << 30


def test_with_snapshots(cinder: World, backups: BackupService) -> None:
    volume, snapshots = history(cinder)
    expected = cinder.content(volume)
    backup = backups.create(volume)
    cinder.audit(volume, *snapshots)
    # Into a new volume, and back into the same one, whose snapshots stay.
    restored = backups.restore(backup)
    assert cinder.content(restored) == expected
    cinder.audit(restored)
    held = [cinder.snapshot_content(snapshot) for snapshot in snapshots]
    cinder.write(volume, 0x77, 7 * MIB)
    cinder.write(volume, 0x77, 3 * MIB)
    backups.restore(backup, volume)
    assert cinder.content(volume) == expected
    assert held == [cinder.snapshot_content(snapshot)
                    for snapshot in snapshots]
    cinder.audit(volume, *snapshots)


def test_of_a_snapshot(cinder: World, backups: BackupService) -> None:
    volume, (_, snapshot) = history(cinder)
    expected = cinder.snapshot_content(snapshot)
    backup = backups.create(volume, snapshot)
    assert cinder.fresh(snapshot).status == 'available'
    restored = backups.restore(backup)
    assert cinder.content(restored) == expected
    assert expected.bytes_at(3 * MIB) == content.digest(0x10)


def test_lone_raw(cinder: World, backups: BackupService) -> None:
    """What is new is sparse, and nevertheless of its full size."""
    volume = cinder.volume()
    cinder.write(volume, 0x10)
    expected = cinder.content(volume)
    backup = backups.create(volume)
    restored = backups.restore(backup)
    assert cinder.content(restored) == expected
    assert expected.size == GIB
    cinder.audit(restored)


def test_in_use(cinder: World, stage: Stage, agent: Agent,
                rabbit: Rabbit) -> None:
    """A guest writes on, and what is backed up is one moment of it."""
    driver = cinder.make_manager(
        assisted_agent='always',
        assisted_agent_transport_url=rabbit.url).driver
    service = BackupService(cinder)
    [one] = boot(cinder, stage, driver, agent.host,
                 cinder.volume(driver=driver))
    one.take()
    with Moment(one.writer) as moment:
        backup = service.create(one.volume)
    glance = ImageService(cinder.folder / 'glance')
    with Moment(one.writer) as later:
        image = upload(cinder, driver, glance, one.volume, 'qcow2')
    one.check()
    gone(cinder)
    one.prove()
    prove(glance.path(image), 'qcow2', one.writer.pattern, later.bounds)
    disk = cinder.disk(service.restore(backup))
    prove(disk.active, disk.active_format, one.writer.pattern, moment.bounds)
    service.close()
