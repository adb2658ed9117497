# SPDX-License-Identifier: Apache-2.0
"""Groups under Cinder's own manager: nothing of a member is forgotten."""

from __future__ import annotations

from typing import Any

from cinder import exception
from cinder import objects
from cinder.volume import group_types
from oslo_config import cfg
import pytest

from tests.functional.cinder.lab.content import digest
from tests.functional.cinder.lab.world import POOL
from tests.functional.cinder.lab.world import World

MIB = 1 << 20


@pytest.fixture(params=['generic', 'consistent', 'default'])
def kind(cinder: World, request: pytest.FixtureRequest) -> str:
    """A group type's id."""
    if request.param == 'default':
        found: str = group_types.get_group_type_by_name(
            cinder.admin, 'default_cgsnapshot_type')['id']
        return found
    specs = ({'consistent_group_snapshot_enabled': '<is> True'}
             if request.param == 'consistent' else {})
    made: str = group_types.create(cinder.admin, request.param, specs)['id']
    return made


def grouped(cinder: World, kind: str, count: int = 2
            ) -> tuple[Any, list[Any]]:
    """A group that the manager has made, and its volumes."""
    group = objects.Group(
        cinder.admin, name='group', status='creating', user_id='user',
        project_id='project', host=POOL, group_type_id=kind)
    group.create()
    cinder.manager.create_group(cinder.admin, group)
    volumes = []
    for n in range(count):
        row = cinder.row(host=POOL, group_id=group.id)
        cinder.manager.create_volume(cinder.context, row, request_spec={},
                                     filter_properties={})
        cinder.write(row, 0x10 + n, n * MIB)
        volumes.append(cinder.fresh(row))
    return objects.Group.get_by_id(cinder.admin, group.id), volumes


def taken(cinder: World, group: Any, volumes: list[Any]
          ) -> tuple[Any, list[Any]]:
    """A group snapshot that the manager has taken, and its snapshots."""
    made = objects.GroupSnapshot(
        cinder.admin, group_id=group.id, status='creating', user_id='user',
        project_id='project', group_type_id=group.group_type_id)
    made.create()
    rows = [cinder.snapshot_row(volume, group_snapshot_id=made.id)
            for volume in volumes]
    cinder.manager.create_group_snapshot(cinder.admin, made)
    return made, [cinder.fresh(row) for row in rows]


def test_life_of_a_group(cinder: World, kind: str) -> None:
    group, volumes = grouped(cinder, kind)
    assert group.status == 'available'
    made, snapshots = taken(cinder, group, volumes)
    for n, (volume, snapshot) in enumerate(
            zip(volumes, snapshots, strict=True)):
        cinder.write(volume, 0x99, n * MIB)
        cinder.audit(volume, snapshot)
        assert cinder.snapshot_content(snapshot).bytes_at(n * MIB) == (
            digest(0x10 + n))
    cinder.manager.delete_group_snapshot(cinder.admin, made)
    for volume in volumes:
        cinder.audit(volume)
    cinder.manager.delete_group(cinder.admin, group)
    assert list(cinder.share.iterdir()) == []
    with pytest.raises(exception.VolumeNotFound):
        cinder.fresh(volumes[0])


def test_busy_member_is_not_forgotten(cinder: World, kind: str) -> None:
    group, volumes = grouped(cinder, kind)
    made, snapshots = taken(cinder, group, volumes)
    cinder.reserve(volumes[1])
    for snapshot in snapshots:
        snapshot.status = 'deleting'
        snapshot.save()
    with pytest.raises(exception.VolumeDriverException):
        cinder.manager.delete_group_snapshot(cinder.admin, made)
    assert cinder.fresh(snapshots[0]).status == 'deleting'
    assert cinder.fresh(snapshots[1]).status == 'available'
    cinder.audit(volumes[0])
    cinder.audit(volumes[1], snapshots[1])


def test_member_is_no_leftover_while_the_next_one_goes(
        cinder: World, kind: str) -> None:
    group, volumes = grouped(cinder, kind)
    _, snapshots = taken(cinder, group, volumes)
    driver = cinder.manager.driver
    cfg.CONF.set_override('service_down_time', 0)
    told = []

    class Looked(type(driver)):  # type: ignore[misc]
        """Recovery looks after each member."""

        def delete_snapshot(self, snapshot: Any) -> None:
            super().delete_snapshot(snapshot)
            told.extend(driver.recovery.sweep())

    driver.__class__ = Looked
    try:
        for snapshot in snapshots:
            snapshot.status = 'deleting'
            snapshot.save()
        update, _ = driver.delete_group_snapshot(cinder.admin, None,
                                                 snapshots)
    finally:
        driver.__class__ = Looked.__base__
        cfg.CONF.clear_override('service_down_time')
    assert update == {'status': 'deleted'}
    assert told == []


def test_busy_volume_is_not_forgotten(cinder: World, kind: str) -> None:
    group, volumes = grouped(cinder, kind)
    snapshot = cinder.snapshot(volumes[1], driver=cinder.manager.driver)
    with pytest.raises(exception.VolumeDriverException):
        cinder.manager.delete_group(cinder.admin, group)
    assert cinder.fresh(volumes[0]).status == 'error_deleting'
    assert cinder.fresh(volumes[1]).status == 'available'
    cinder.audit(volumes[1], snapshot)
    cinder.delete_volume(volumes[0], driver=cinder.manager.driver)


@pytest.mark.parametrize('of_snapshots', [True, False])
def test_group_of_a_group(cinder: World, kind: str,
                          of_snapshots: bool) -> None:
    group, volumes = grouped(cinder, kind)
    made, snapshots = taken(cinder, group, volumes)
    copy = objects.Group(
        cinder.admin, name='copy', status='creating', user_id='user',
        project_id='project', host=POOL, group_type_id=kind)
    copy.create()
    sources = snapshots if of_snapshots else volumes
    named = 'snapshot_id' if of_snapshots else 'source_volid'
    rows = [cinder.row(host=POOL, group_id=copy.id, **{named: source.id})
            for source in sources]
    cinder.manager.create_group_from_src(
        cinder.admin, copy, **({'group_snapshot': made} if of_snapshots
                               else {'source_group': group}))
    for n, row in enumerate(rows):
        found = cinder.fresh(row)
        assert found.status == 'available'
        cinder.audit(found)
        assert cinder.content(found).bytes_at(n * MIB) == digest(0x10 + n)
