# SPDX-License-Identifier: Apache-2.0
"""Volumes in use, with the agent: real driver, real guest, real bus."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import subprocess
import sys
from typing import Any
import uuid

from cinder import exception
from cinder import objects
from cinder.db import api as db
from cinder.volume import group_types
from oslo_config import cfg
import pytest

from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.rpcapi import errors
from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.inuse import InUse
from tests.functional.cinder.lab.world import GIB
from tests.functional.cinder.lab.world import World
from tests.functional.lab import audit
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Moment
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.stage import Stage

MIB = 1 << 20
BOTH = pytest.mark.parametrize('cow', [False, True], ids=['raw', 'qcow2'])


@pytest.fixture
def scene(cinder: World, stage: Stage, agent: Agent, rabbit: Rabbit
          ) -> Callable[..., list[InUse]]:
    """Boots a guest that writes on volumes of the driver."""
    def make(count: int = 1, **options: Any) -> list[InUse]:
        driver = cinder.make_driver(**{
            'assisted_agent': 'always',
            'assisted_agent_transport_url': rabbit.url, **options})
        return boot(cinder, stage, driver, agent.host,
                    *(cinder.volume(driver=driver) for _ in range(count)))
    return make


@pytest.fixture
def one(scene: Callable[..., list[InUse]]) -> InUse:
    """A guest with one raw volume."""
    return scene()[0]


def group_of(one: InUse, *others: InUse) -> tuple[Any, list[Any]]:
    """A group snapshot of volumes, as the API makes it; its snapshots."""
    world = one.world
    kind = group_types.create(world.admin, f'kind-{uuid.uuid4()}', {
        'consistent_group_snapshot_enabled': '<is> True'})
    group = objects.Group(
        world.admin, name='g', group_type_id=kind['id'],
        user_id='user', project_id='project', host=one.volume.host,
        status='available')
    group.create()
    for volume in (o.volume for o in (one, *others)):
        db.volume_update(world.admin, volume.id, {'group_id': group.id})
    taken = objects.GroupSnapshot(
        world.admin, group_id=group.id, status='creating', user_id='user',
        project_id='project', group_type_id=group.group_type_id)
    taken.create()
    rows = []
    for volume in (o.volume for o in (one, *others)):
        rows.append(world.snapshot_row(world.fresh(volume),
                                       group_snapshot_id=taken.id))
    return taken, rows


def take_group(*members: InUse) -> list[Any]:
    """Take a group snapshot under load."""
    taken, rows = group_of(*members)
    with contextlib.ExitStack() as stack:
        moments = [stack.enter_context(Moment(one.writer))
                   for one in members]
        _, updates = members[0].driver.create_group_snapshot(
            members[0].world.admin, taken, rows)
    for update, row, one, moment in zip(updates, rows, members, moments,
                                        strict=True):
        row.update(update)
        row.save()
        one.expected[row.id] = moment.bounds
    return rows


@BOTH
def test_life(scene: Callable[..., list[InUse]], cow: bool) -> None:
    one = scene(nfs_qcow2_volumes=cow)[0]
    oldest, middle, newest = (one.take() for _ in range(3))
    one.check()
    copy = one.world.from_snapshot(middle, 2, driver=one.driver)
    clone = one.world.clone(one.volume, driver=one.driver)
    one.check()
    for snapshot in (middle, newest, oldest):
        one.delete(snapshot)
        one.check()
        one.snapshots_hold()
    for made, bounds in ((copy, one.taken[middle.id]), (clone, None)):
        disk = one.world.disk(made)
        audit.settled(disk)
        audit.active_holds(disk, one.writer.pattern, bounds)
        assert images.virtual_size(disk.active, disk.active_format) == (
            made.size * GIB)
    one.prove()


def test_paused_and_shut_off(one: InUse) -> None:
    first = one.take()
    one.guest.suspend()
    second = one.world.take(one.row(), one.driver)
    progress = Bounds(0, 1 << 40)
    one.expected[second.id] = progress
    one.delete(first)
    one.check()
    one.guest.resume()
    one.writer.write_more(60)
    one.rest()
    one.guest.destroy()
    third = one.world.take(one.row(), one.driver)
    one.expected[third.id] = progress
    one.delete(second)
    one.check()
    one.guest.start()
    one.check()
    one.prove()


def test_agent_away(one: InUse, agent: Agent) -> None:
    first = one.take()
    agent.kill()
    with pytest.raises(exception.SnapshotIsBusy, match='no answer'):
        one.delete(first)
    assert 'no answer' in one.reason(first)
    row = one.row()
    with pytest.raises(exception.CinderException):
        one.world.take(row, one.driver)
    assert one.world.fresh(row).status == 'error'
    one.check()
    agent.start()
    one.delete(one.world.fresh(first))
    row.destroy()
    one.prove()


def test_aborted_job(scene: Callable[..., list[InUse]], agent: Agent
                     ) -> None:
    one = scene(assisted_bandwidth=MIB // 4)[0]
    client = agent.client()
    first, job, failed = one.begin_delete(client)
    waiting.until(lambda: one.world.fresh(first).progress not in
                  ('0%', '100%'), 'progress', 60)
    client.abort_job(job.id)
    with pytest.raises(exception.SnapshotIsBusy, match='aborted'):
        failed.result(60)
    assert 'aborted' in one.reason(first)
    cfg.CONF.set_override('assisted_bandwidth', 0,
                          one.driver.configuration.config_group)
    # Part of it is in the layer below: nobody may read it as the snapshot.
    row = one.world.row()
    with pytest.raises(exception.CinderException):
        one.driver.create_volume_from_snapshot(row, one.world.fresh(first))
    row.destroy()
    one.delete(one.world.fresh(first))
    one.check()
    one.prove()


@pytest.mark.parametrize('victim', ['rabbit', 'libvirtd', 'agent'])
def test_mid_operation(scene: Callable[..., list[InUse]], victim: str,
                       agent: Agent, rabbit: Rabbit, libvirtd: Libvirtd
                       ) -> None:
    one = scene(assisted_bandwidth=MIB // 4)[0]
    _, job, rest = one.begin_delete(agent.client())
    if victim == 'rabbit':
        rabbit.restart()
    elif victim == 'agent':
        agent.kill()
        agent.start()
    else:
        libvirtd.kill()
        libvirtd.start()

    def hurried() -> Any:
        try:
            return agent.client(5).set_bandwidth(job.id, 0)
        except errors.AgentError:  # it finds its way back to the bus
            return None
    waiting.until(hurried, 'the agent answering', 90)
    rest.result(120)
    one.check()
    one.prove()


def test_group(scene: Callable[..., list[InUse]]) -> None:
    members = scene(2)
    rows = take_group(*members)
    jobs = [guests.client(one.driver.backend, guests.host_of(
        one.attachment)).list_jobs(one.volume.id) for one in members]
    assert jobs[0] == jobs[1], 'it was not one transaction'
    for one, row in zip(members, rows, strict=True):
        one.check()
        one.delete(row)
    for one in members:
        one.rest()
    for one in members:
        one.prove()


def test_group_is_all_or_none(scene: Callable[..., list[InUse]],
                              agent: Agent) -> None:
    members = scene(2)
    taken, rows = group_of(*members)
    blocker = members[1].disk.layer(rows[1].id)
    blocker.touch()
    with pytest.raises(exception.CinderException):
        members[0].driver.create_group_snapshot(members[0].world.admin,
                                                taken, rows)
    blocker.unlink()
    for row in rows:
        row.destroy()
    for one in members:
        one.check()
        one.rest()
    for one in members:
        one.prove()


def test_refused_before_anything_is_made(one: InUse) -> None:
    before = sorted(one.disk.folder.iterdir())
    extra = one.world.reserve(one.volume)
    for status in ('reserved', 'attaching', 'error_detaching', 'attached'):
        extra.attach_status = status
        extra.save()
        volume = one.world.fresh(one.volume)
        volume.status = 'in-use'
        volume.save()
        row = one.row()
        with pytest.raises(exception.InvalidVolume):
            one.world.take(row, one.driver)
        row.destroy()
        assert sorted(one.disk.folder.iterdir()) == before
    db.attachment_destroy(one.world.admin, extra.id)
    one.prove()


def test_under_eventlet(one: InUse, rabbit: Rabbit) -> None:
    """The bus is the hub's, the chain's work is not."""
    world = one.world
    world.section('patched', assisted_agent='always',
                  assisted_agent_transport_url=rabbit.url)
    row = one.row()
    with Moment(one.writer) as moment:
        told = subprocess.run(
            [sys.executable, '-m', 'tests.functional.cinder.ticking',
             world.folder, row.id], capture_output=True, text=True,
            check=False, timeout=180)
    assert told.stdout.endswith('done\n'), told.stderr
    row = world.fresh(row)
    row.status = 'available'
    row.save()
    one.expected[row.id] = moment.bounds
    one.check()
    one.prove()
