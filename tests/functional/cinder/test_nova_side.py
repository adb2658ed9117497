# SPDX-License-Identifier: Apache-2.0
"""Volumes in use, with a Nova that knows nothing of this project."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import threading
import time
from typing import Any

from cinder import exception
from cinder import objects
from oslo_config import cfg
import pytest

from assisted_snapshots.cinder_driver import nova_side
from assisted_snapshots.cinder_driver import snapshots
from assisted_snapshots.cinder_driver import temporary
from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.inuse import InUse
from tests.functional.cinder.lab.inuse import later
from tests.functional.cinder.lab.inuse import seen
from tests.functional.cinder.lab.inuse import sizes
from tests.functional.cinder.lab.nova import Behaviour
from tests.functional.cinder.lab.nova import Nova
from tests.functional.cinder.lab.world import GIB
from tests.functional.cinder.lab.world import World
from tests.functional.lab import audit
from tests.functional.lab import waiting
from tests.functional.lab.guest import Moment
from tests.functional.lab.stage import Stage

HOST = 'compute-1'
BOTH = pytest.mark.parametrize('cow', [False, True], ids=['raw', 'qcow2'])


@pytest.fixture
def nova(cinder: World) -> Iterator[Nova]:
    """A Nova that Cinder is configured for."""
    service = Nova()
    service.start()
    service.introduce()
    yield service
    service.stop()
    service.settle()


@pytest.fixture
def scene(cinder: World, stage: Stage, nova: Nova
          ) -> Callable[..., InUse]:
    """Boots a guest that writes on a volume of the driver."""
    def make(**options: Any) -> InUse:
        driver = cinder.make_driver(**{'assisted_agent': 'never', **options})
        volume = cinder.volume(driver=driver)
        one = boot(cinder, stage, driver, HOST, volume)[0]
        nova.host(one)
        return one
    return make


@pytest.fixture
def one(scene: Callable[..., InUse]) -> InUse:
    """A guest with one raw volume."""
    return scene()


def payloads(nova: Nova, one: InUse) -> list[tuple[Any, ...]]:
    """What Nova was asked to delete, in names as in the tests."""
    return [(info['file_to_merge'], info['merge_target_file'])
            for kind, info in nova.requests if kind == 'delete']


@BOTH
def test_life(scene: Callable[..., InUse], nova: Nova, cow: bool) -> None:
    one = scene(nfs_qcow2_volumes=cow)
    oldest, middle, newest = (one.take() for _ in range(3))
    base = one.disk.name
    a, b, c = (f'{base}.{s.id}' for s in (oldest, middle, newest))
    one.check()
    for snapshot in (middle, newest, oldest):
        one.delete(snapshot)
        assert one.chain()[-1] == c
        one.check()
        one.snapshots_hold()
    assert payloads(nova, one) == [(b, a), (base, None), (None, None)]
    nova.settle()
    assert nova.servers[one.guest.uuid].bdm[one.volume.id]['name'] == c
    one.prove()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence that follows Nova's word is not waited for long."""
    monkeypatch.setattr(nova_side, '_GRACE', 1.0)
    monkeypatch.setattr(nova_side, '_WORD', 0.5)


def not_taken(one: InUse, match: str) -> None:
    """Fail to take a snapshot; nothing is left of it."""
    row = one.row()
    with pytest.raises(exception.CinderException, match=match):
        one.world.take(row, one.driver)
    assert one.world.fresh(row).status == 'error'
    assert not one.disk.layer(row.id).exists()
    one.check()
    one.delete_failed(row)


def not_deleted(one: InUse, snapshot: Any, match: str) -> None:
    """Fail to delete a snapshot, which stays as it was."""
    with pytest.raises(exception.SnapshotIsBusy, match=match):
        one.delete(one.world.fresh(snapshot))
    assert one.world.fresh(snapshot).status == 'available'
    assert one.reason(snapshot)
    one.check()
    one.snapshots_hold()


def test_refusals(one: InUse, nova: Nova) -> None:
    first, _ = one.take(), one.take()
    server = nova.servers[one.guest.uuid]
    for behaviour in (Behaviour(refuse=409), Behaviour(refuse=400)):
        nova.behaviour = behaviour
        not_taken(one, 'server is busy')
        not_deleted(one, first, 'server is busy')
    nova.behaviour = Behaviour()
    asked = len(nova.requests)
    for attribute, value in (('task_state', 'migrating'),
                             ('vm_state', 'suspended'),
                             ('vm_state', 'shelved')):
        setattr(server, attribute, value)
        not_taken(one, value)
        not_deleted(one, first, value)
        setattr(server, attribute, None if attribute == 'task_state' else '')
    del nova.servers[one.guest.uuid]
    not_taken(one, 'not known to Nova')
    nova.servers[one.guest.uuid] = server
    nova.stop()
    not_taken(one, 'Nova cannot be asked')
    not_deleted(one, first, 'Nova cannot be asked')
    nova.start()
    assert len(nova.requests) == asked
    one.delete(one.world.fresh(first))
    one.take()
    one.prove()


@pytest.mark.usefixtures('hasty')
def test_words_of_a_create(one: InUse, nova: Nova) -> None:
    for word in ('', 'error', 'available'):  # lost, wrong, forged
        nova.behaviour = Behaviour(word=word)
        one.take()
        one.check()
    for word in ('creating', 'error', ''):  # it says so, and does nothing
        nova.behaviour = Behaviour(work=False, word=word)
        if not word:
            cfg.CONF.set_override('assisted_nova_patience', 2,
                                  one.driver.configuration.config_group)
        not_taken(one, 'Nova')
    nova.behaviour = Behaviour()
    nova.settle()
    one.prove()


@pytest.mark.usefixtures('hasty')
def test_late_create(scene: Callable[..., InUse], nova: Nova) -> None:
    one = scene(assisted_nova_patience=2)
    gate = threading.Event()
    nova.behaviour = Behaviour(before=lambda: gate.wait(60))
    not_taken(one, 'Nova was asked, but nothing')
    gate.set()
    nova.settle()
    nova.behaviour = Behaviour()
    assert [word for _, word, _ in nova.reports] == ['error']
    one.check()
    one.take()
    one.prove()


@pytest.mark.usefixtures('hasty')
def test_words_of_a_delete(one: InUse, nova: Nova) -> None:
    rows = [one.take() for _ in range(4)]
    for word in ('deleting', 'error_deleting'):  # and does nothing
        nova.behaviour = Behaviour(work=False, word=word)
        not_deleted(one, rows[1], 'Nova said')
    asked = len(nova.requests)
    nova.behaviour = Behaviour(word='')  # its answer is lost
    one.delete(one.world.fresh(rows[1]))
    assert len(nova.requests) == asked + 1
    nova.behaviour = Behaviour(word='error_deleting')  # and does it
    one.delete(rows[3])
    one.check()
    nova.settle()
    one.prove()


@pytest.mark.usefixtures('hasty')
@pytest.mark.parametrize('word', ['deleting', 'error_deleting'])
@pytest.mark.parametrize('newest', [False, True], ids=['commit', 'pull'])
def test_forged_in_mid_job(scene: Callable[..., InUse], nova: Nova,
                           newest: bool, word: str) -> None:
    one = scene(assisted_nova_patience=2)
    one.fill(16)
    first = one.take()
    one.fill(16)
    subject = one.take() if newest else first
    if not newest:
        one.take()
    nova.behaviour = Behaviour(bandwidth=4, word='')
    rest = later(one.delete, subject)
    waiting.until(lambda: one.guest.domain.blockJobInfo(
        one.guest.device(one.disk), 0), 'the block job', 60)
    assert nova.report(subject.id, word) == 202
    files = one.disk.files()
    while one.guest.domain.blockJobInfo(one.guest.device(one.disk), 0):
        assert one.disk.files() == files
        assert not rest.done()
        time.sleep(0.2)
    rest.result(60)
    nova.settle()
    one.prove()


@pytest.mark.usefixtures('hasty')
def test_done_after_it_was_given_up(scene: Callable[..., InUse], nova: Nova
                                    ) -> None:
    one = scene(assisted_nova_patience=2)
    first, _ = one.take(), one.take()
    gate = threading.Event()
    nova.behaviour = Behaviour(before=lambda: gate.wait(60))
    not_deleted(one, first, 'nothing is seen')
    not_taken(one, 'unfinished')
    nova.behaviour = Behaviour(refuse=409)
    not_deleted(one, first, 'server is busy')
    nova.behaviour = Behaviour()
    gate.set()
    nova.settle()
    asked = len(nova.requests)
    one.delete(one.world.fresh(first))
    assert len(nova.requests) == asked
    one.take()
    one.prove()


def test_paused_and_shut_off(one: InUse, nova: Nova) -> None:
    first, second, third = (one.take() for _ in range(3))
    one.guest.suspend()
    not_deleted(one, first, 'is paused')
    one.guest.resume()
    one.rest()
    one.guest.destroy()
    row = one.row()
    with pytest.raises(exception.InvalidVolume, match='shut off'):
        one.world.take(row, one.driver)
    row.destroy()
    asked = len(nova.requests)
    for snapshot in (third, first, second):
        one.delete(snapshot)
        one.check()
        one.snapshots_hold()
    assert len(nova.requests) == asked
    one.guest.define()  # as Nova does, from the connection info
    one.guest.start()
    one.check()
    one.prove()


def test_clone_in_use(one: InUse, nova: Nova) -> None:
    one.take()
    with Moment(one.writer) as moment:
        clone = one.world.clone(one.volume, 2, driver=one.driver)
    one.check()
    disk = one.world.disk(clone)
    audit.settled(disk)
    audit.active_holds(disk, one.writer.pattern, moment.bounds)
    assert [kind for kind, _ in nova.requests] == ['create', 'create',
                                                   'delete']
    nova.servers[one.guest.uuid].task_state = 'resizing'
    row = one.world.row(source_volid=one.volume.id)
    with pytest.raises(exception.CinderException, match='resizing'):
        one.driver.create_cloned_volume(row, one.world.fresh(one.volume))
    one.check()
    assert not list(one.disk.folder.glob(f'{row.name}*'))
    nova.servers[one.guest.uuid].task_state = None
    one.prove()


def test_only_stopped_servers_volumes_are_extended(one: InUse, nova: Nova
                                                   ) -> None:
    """Nova could only be told of what has happened already."""
    one.take()
    asked = len(nova.requests)
    files = {path.name for path in one.disk.folder.iterdir()}
    with pytest.raises(exception.ExtendVolumeError, match='stop the server'):
        one.driver.extend_volume(one.world.fresh(one.volume), 2)
    assert sizes(one) == [GIB, GIB]
    assert {path.name for path in one.disk.folder.iterdir()} == files
    one.check()
    assert one.driver.recovery.sweep() == []
    assert sizes(one) == [GIB, GIB]
    one.rest()
    one.guest.destroy()
    one.driver.extend_volume(one.world.fresh(one.volume), 2)
    assert (sizes(one), len(nova.requests)) == ([GIB, 2 * GIB], asked)
    one.guest.start()
    assert seen(one) == 2 * GIB
    one.prove()


def test_left_by_a_crash(one: InUse, nova: Nova) -> None:
    volume = one.world.fresh(one.volume)
    source = one.driver.backend.fresh(volume)
    made = one.world.row(source_volid=volume.id)
    left = objects.Snapshot(
        one.world.admin, volume_id=volume.id, status='creating',
        progress='0%', volume_size=1, use_quota=False, user_id='user',
        project_id='project', display_name=f'tmp-snap-{made.id}',
        volume_type_id=volume.volume_type_id)
    left.create()
    with one.driver.backend.locked(volume.id):
        snapshots.create_locked(one.driver.backend, source, left)
    with one.driver.backend.locked(volume.id):
        assert temporary.sweep(one.driver.backend, source) == [
            f'temporary snapshot {left.id} is removed']
    one.check()
    assert one.chain()[-1] == one.disk.layer(left.id).name
    one.prove()
