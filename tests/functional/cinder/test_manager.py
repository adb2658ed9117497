# SPDX-License-Identifier: Apache-2.0
"""What users see: the driver under Cinder's own volume manager."""

from __future__ import annotations

from typing import Any

from cinder import exception
from cinder import objects
from cinder.db import api as db
import pytest

from tests.functional.cinder.lab.content import digest
from tests.functional.cinder.lab.world import POOL
from tests.functional.cinder.lab.world import World

MIB = 1 << 20


def created(cinder: World, **values: Any) -> Any:
    """A volume that the manager has made."""
    row = cinder.row(host=POOL, **values)
    cinder.manager.create_volume(cinder.context, row, request_spec={},
                                 filter_properties={})
    return cinder.fresh(row)


def taken(cinder: World, volume: Any) -> Any:
    """A snapshot that the manager has taken."""
    row = cinder.snapshot_row(cinder.fresh(volume))
    cinder.manager.create_snapshot(cinder.context, row)
    return cinder.fresh(row)


def deleting(cinder: World, row: Any) -> Any:
    return cinder.become(row, 'deleting')


def test_cascade(cinder: World) -> None:
    volume = created(cinder)
    snapshots = []
    for n in range(4):
        cinder.write(volume, 0x10 + n, n * MIB, MIB)
        snapshots.append(taken(cinder, volume))
    for snapshot in snapshots:
        deleting(cinder, snapshot)
    cinder.manager.delete_volume(cinder.context, deleting(cinder, volume),
                                 cascade=True)
    assert list(cinder.share.iterdir()) == []
    with pytest.raises(exception.VolumeNotFound):
        cinder.fresh(volume)
    assert not objects.SnapshotList.get_all_for_volume(cinder.admin,
                                                       volume.id)


@pytest.mark.usefixtures('quick_stretching')
def test_copies_of_an_encrypted_volume(cinder: World) -> None:
    """Cinder connects a clone to give it a key of its own, if it can."""
    volume = created(cinder, encrypted=True)
    cinder.write(volume, 3)
    wanted = cinder.content(volume)
    snapshot = taken(cinder, volume)
    for source in ({'source_volid': volume.id},
                   {'snapshot_id': snapshot.id}):
        copy = created(cinder, encrypted=True, **source)
        assert cinder.content(copy) == wanted
        cinder.audit(copy)


def test_busy_snapshot_is_available_and_says_why(cinder: World) -> None:
    volume = created(cinder)
    snapshot = taken(cinder, volume)
    attachment = cinder.reserve(volume)
    cinder.manager.delete_snapshot(cinder.context, deleting(cinder, snapshot))
    found = cinder.fresh(snapshot)
    assert found.status == 'available'
    assert 'reserved' in found.metadata['assisted_snapshots:reason']
    cinder.audit(volume, snapshot)
    told = db.message_get_all(cinder.admin)
    assert [message['detail_id'] for message in told
            if message['resource_uuid'] == snapshot.id] == ['015']
    with attachment.obj_as_admin():
        attachment.destroy()
    cinder.become(volume, 'available')
    cinder.manager.delete_snapshot(cinder.context, deleting(cinder, snapshot))
    cinder.audit(volume)
    with pytest.raises(exception.SnapshotNotFound):
        cinder.fresh(snapshot)


def test_disagreement_is_an_error_and_keeps_every_file(cinder: World) -> None:
    volume = created(cinder)
    snapshot, other = taken(cinder, volume), taken(cinder, volume)
    before = set(cinder.share.iterdir())
    (cinder.share / f'{volume.name}.info').write_text(
        f'{{"active": "{volume.name}"}}')
    with pytest.raises(exception.VolumeBackendAPIException):
        cinder.manager.delete_snapshot(cinder.context,
                                       deleting(cinder, snapshot))
    assert cinder.fresh(snapshot).status == 'error_deleting'
    assert set(cinder.share.iterdir()) == before
    assert cinder.fresh(other).status == 'available'


def test_refused_snapshot_can_be_deleted(cinder: World) -> None:
    volume = created(cinder)
    cinder.attach(volume, driver=cinder.manager.driver)
    cinder.attach(volume, driver=cinder.manager.driver)
    row = cinder.snapshot_row(cinder.fresh(volume))
    with pytest.raises(exception.InvalidVolume, match='2 attachments'):
        cinder.manager.create_snapshot(cinder.context, row)
    assert cinder.fresh(row).status == 'error'
    cinder.audit(volume)


def test_failed_volume_can_be_deleted(cinder: World) -> None:
    driver = cinder.manager.driver
    volume = cinder.row(host=POOL)
    in_the_way = cinder.share / f'{volume.name}.journal'
    in_the_way.mkdir()
    with pytest.raises((OSError, exception.CinderException)):
        driver.create_volume(volume)
    in_the_way.rmdir()
    cinder.manager.delete_volume(cinder.context, deleting(cinder, volume))
    assert list(cinder.share.iterdir()) == []


def test_revert(cinder: World) -> None:
    volume = created(cinder)
    cinder.write(volume, 0x11)
    snapshot = taken(cinder, volume)
    cinder.write(volume, 0x22)
    row, held = cinder.fresh(volume), cinder.fresh(snapshot)
    row.update({'status': 'reverting'})
    row.save()
    held.update({'status': 'restoring'})
    held.save()
    cinder.manager.revert_to_snapshot(cinder.admin, row, held)
    assert cinder.fresh(volume).status == 'available'
    assert cinder.fresh(snapshot).status == 'available'
    assert cinder.content(volume).bytes_at(0) == digest(0x11)
    cinder.audit(volume, snapshot)


def test_lock_files_go_with_their_volume(cinder: World) -> None:
    volume = created(cinder)
    taken_one = taken(cinder, volume)
    cinder.manager.delete_snapshot(cinder.context,
                                   deleting(cinder, taken_one))
    cinder.manager.delete_volume(cinder.context, deleting(cinder, volume))
    assert [path.name for path in (cinder.folder / 'state').iterdir()
            if volume.id in path.name or taken_one.id in path.name] == []
