# SPDX-License-Identifier: Apache-2.0
"""What recovery makes of statuses, and of whom it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cinder import exception
from cinder import quota
from cinder.db import api as db
from oslo_config import cfg
import pytest

from assisted_snapshots.cinder_driver import reasons
from tests.functional.cinder.lab.cut import cut_short
from tests.functional.cinder.lab.world import World
from tests.functional.lab import waiting


@pytest.fixture(autouse=True)
def _patience(cinder: World) -> Iterator[None]:
    """What nobody has touched for no time at all counts as abandoned."""
    cfg.CONF.set_override('service_down_time', 0)
    yield
    cfg.CONF.clear_override('service_down_time')


@pytest.mark.parametrize('status', ['deleting', 'creating'])
def test_a_status_alone_removes_nothing(cinder: World, status: str) -> None:
    volume = cinder.volume()
    cinder.write(volume, 0x11)
    snapshot = cinder.snapshot(volume)
    before = cinder.snapshot_content(snapshot)
    cinder.become(snapshot, status)
    assert cinder.driver.recovery.sweep() != []
    assert cinder.fresh(snapshot).status == 'available'
    assert cinder.snapshot_content(snapshot) == before
    cinder.audit(volume, snapshot)
    assert cinder.driver.recovery.sweep() == []


def test_a_bootable_snapshot_has_its_image_once(cinder: World) -> None:
    """Also where the manager was killed after it had noted that."""
    volume = cinder.volume()
    row = cinder.fresh(volume)
    row.bootable = True
    row.save()
    db.volume_glance_metadata_create(cinder.admin, volume.id, 'image_id', 'i')
    snapshot = cinder.snapshot(volume)
    for _ in range(2):
        cinder.become(snapshot, 'creating')
        cinder.driver.recovery.sweep()
        assert cinder.fresh(snapshot).status == 'available'
        assert [(meta['key'], meta['value']) for meta
                in db.volume_snapshot_glance_metadata_get(
                    cinder.admin, snapshot.id)] == [('image_id', 'i')]


def test_what_was_made_after_all_has_no_reason(cinder: World) -> None:
    """Of an agent that fell silent, say, while it was asked."""
    volume = cinder.volume()
    row = cinder.snapshot_row(volume)
    row.metadata = {'mine': 'kept', reasons.KEY: 'no answer'}
    row.status = 'error'
    row.save()
    cut_short(cinder, volume, 'write .info',
              lambda operations: operations.create(row.id))
    cinder.driver.recovery.sweep()
    assert cinder.fresh(row).status == 'available'
    assert cinder.fresh(row).metadata == {'mine': 'kept'}
    cinder.audit(volume, row)


def test_a_refused_deletion_is_told_to_the_user(cinder: World) -> None:
    snapshot = cinder.snapshot(cinder.volume())
    cinder.become(snapshot, 'deleting')
    cinder.driver.recovery.sweep()
    message, = db.message_get_all(cinder.context)
    assert message['resource_uuid'] == snapshot.id
    assert message['project_id'] == snapshot.project_id


def test_a_request_in_the_queue_is_left_alone(cinder: World) -> None:
    cfg.CONF.set_override('service_down_time', 60)
    volume = cinder.volume()
    snapshot = cinder.snapshot(volume)
    cinder.become(snapshot, 'deleting')
    fresh = cinder.snapshot_row(volume)
    assert cinder.driver.recovery.sweep() == []
    assert cinder.fresh(snapshot).status == 'deleting'
    assert cinder.fresh(fresh).status == 'creating'


def test_what_was_never_made_is_an_error(cinder: World) -> None:
    volume = cinder.volume()
    row = cinder.snapshot_row(volume)
    cinder.driver.recovery.sweep()
    assert cinder.fresh(row).status == 'error'
    cinder.delete(row)
    cinder.audit(volume)


def test_who_holds_the_lock_is_left_alone(cinder: World) -> None:
    volume = cinder.volume()
    row = cinder.snapshot_row(volume)
    with cinder.driver.backend.locked(volume.id):
        assert cinder.driver.recovery.sweep() == []
    assert cinder.fresh(row).status == 'creating'


def test_a_second_deletion_counts_nothing(cinder: World) -> None:
    count(cinder, 1)
    count(cinder, -1)
    manager = cinder.make_manager()
    cinder.driver = manager.driver
    snapshot = cinder.snapshot(cinder.volume())
    count(cinder, 1)
    row = cinder.become(snapshot, 'deleting')
    again = cinder.fresh(row)
    manager.delete_snapshot(cinder.context, row)
    with pytest.raises(exception.SnapshotNotFound):
        manager.delete_snapshot(cinder.context, again)
    assert used(cinder) == 0


def test_a_row_whose_layer_has_gone_goes_once(cinder: World) -> None:
    count(cinder, 1)
    count(cinder, -1)
    manager = cinder.make_manager()
    cinder.driver = manager.driver
    volume = cinder.volume()
    snapshot = cinder.snapshot(volume)
    count(cinder, 1)
    row = cinder.become(snapshot, 'deleting')
    cinder.driver.delete_snapshot(row)
    cinder.driver.recovery.sweep()
    waiting.until(lambda: used(cinder) == 0, 'the row and its quota', 20)
    with pytest.raises(exception.SnapshotNotFound):
        cinder.fresh(snapshot)
    cinder.audit(volume)


def test_a_view_that_cannot_be_swept_stops_nothing_else(
        cinder: World) -> None:
    row = cinder.snapshot_row(cinder.volume())
    folder = cinder.driver.views.folder
    (folder / 'x.json').mkdir(parents=True)
    assert cinder.driver.recovery.look(20)
    assert cinder.fresh(row).status == 'error'


def extended(cinder: World) -> Any:
    """A volume whose file has grown, and nobody has noted it yet."""
    volume = cinder.volume()
    cinder.driver.extend_volume(cinder.become(volume, 'extending'), 2)
    return volume


def test_an_extension_that_a_living_manager_notes_is_left_alone(
        cinder: World) -> None:
    cfg.CONF.set_override('service_down_time', 60)
    volume = extended(cinder)
    assert cinder.driver.recovery.sweep() == []
    assert cinder.fresh(volume).status == 'extending'
    assert cinder.fresh(volume).size == 1


def test_an_extension_is_counted_once_by_two_services(cinder: World) -> None:
    volume = extended(cinder)
    other = cinder.make_driver(name='other')
    other.host = cinder.driver.host
    for driver in (cinder.driver, other, cinder.driver):
        driver.recovery.sweep()
    assert cinder.fresh(volume).status == 'available'
    assert cinder.fresh(volume).size == 2
    assert used(cinder, 'gigabytes') == 2


def count(cinder: World, snapshots: int) -> None:
    """Count snapshots, as the API does."""
    reserved = quota.QUOTAS.reserve(cinder.admin, project_id='project',
                                    snapshots=snapshots)
    quota.QUOTAS.commit(cinder.admin, reserved, project_id='project')


def used(cinder: World, resource: str = 'snapshots') -> int:
    """What the project's quota counts."""
    found = db.quota_usage_get_all_by_project(cinder.admin, 'project')
    return int(found[resource]['in_use'])
