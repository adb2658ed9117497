# SPDX-License-Identifier: Apache-2.0
"""cinder-volume killed while a guest has the volume, and started again.

The guest writes and the agent works through all of it; only the service
dies, in front of one effect after the other, and is started by a process
that knows nothing.  One guest lives through all kills of a test, so what
any of them has cost is found by the proofs at the end.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
import os
from pathlib import Path
import signal
import threading
import time
from typing import Any

from cinder import objects
from cinder import quota
from cinder.db import api as db
import pytest

from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver import recovery
from tests.functional.cinder import crash
from tests.functional.cinder.crash import Known
from tests.functional.cinder.lab import process
from tests.functional.cinder.lab.content import Content
from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.inuse import InUse
from tests.functional.cinder.lab.inuse import later
from tests.functional.cinder.lab.process import Joined
from tests.functional.cinder.lab.world import World
from tests.functional.lab import audit
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.guest import Moment
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.stage import Stage

MIB = 1 << 20
#: MiB that make a layer the larger one of two.
LARGE = 8

_OPTIONS = '''
[DEFAULT]
service_down_time = 2
quota_snapshots = -1
'''


@pytest.fixture
def scene(cinder: World, stage: Stage, agent: Agent, rabbit: Rabbit
          ) -> Callable[..., InUse]:
    """Boots a guest that writes on a volume; there is no service."""
    def make(**options: Any) -> InUse:
        with open(cinder.folder / 'cinder.conf', 'a') as file:
            file.write(_OPTIONS)
        driver = cinder.make_driver(
            name=process.SECTION, assisted_agent='always',
            assisted_agent_transport_url=rabbit.url, **options)
        # The first count is that of the rows there are.
        for delta in (1, -1):
            count(cinder, 'snapshots', delta)
            count(cinder, 'volumes', delta)
        return boot(cinder, stage, driver, agent.host,
                    cinder.volume(driver=driver))[0]
    return make


@pytest.fixture
def one(scene: Callable[..., InUse]) -> InUse:
    """A guest with one volume."""
    return scene()


# What children run --------------------------------------------------------

def recover(world: Joined, known: Known) -> str:
    """Start again; what the row of the request says then."""
    manager = world.serve()
    crash.settled(world, manager)
    assert manager.driver.recovery.sweep() == []
    kind = (objects.Volume if objects.Volume.exists(world.admin, known.asked)
            else objects.Snapshot)
    found = (world.fresh(kind(id=known.asked)).status
             if kind.exists(world.admin, known.asked) else 'gone')
    if found == 'error' and kind is objects.Volume:
        crash.remove(world, manager, known)
    elif found == 'error':
        crash.ask_deletion(world, known)
        crash.delete(world, manager, known)
    return str(found)


def killed_in_mid_job(world: Joined, known: Known, host: str) -> None:
    """Delete a snapshot; killed as soon as QEMU is at it."""
    manager = world.serve()
    process.quiet()
    client = guests.client(manager.driver.backend, host)

    def kill() -> None:
        while not any(job.done_bytes for job
                      in client.list_jobs(known.volume, True)):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    crash.ask_deletion(world, known)
    crash.delete(world, manager, known)


def start_without_agent(world: Joined, known: Known) -> list[str]:
    """Start again; says that it has to wait, and ends when it can."""
    told: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = (  # type: ignore[method-assign]
        lambda record: told.append(record.getMessage()))
    recovery.LOG.logger.addHandler(handler)
    recovery.LOG.logger.setLevel(logging.INFO)
    manager = world.serve()
    assert not told, 'the start has waited for what cannot be reached'
    row = objects.Snapshot(id=known.asked)
    waiting.until(lambda: any('has to wait' in line for line in told),
                  'a word in the log', 60)
    assert world.fresh(row).status == 'deleting'
    (world.folder / 'told').touch()
    crash.settled(world, manager, 120)
    assert not objects.Snapshot.exists(world.admin, known.asked)
    assert manager.driver.recovery.sweep() == []
    return told


def restarted(folder: Path, known: Known) -> list[str]:
    """Do that in a process of its own; what it logged."""
    told: list[str] = process.run(start_without_agent, folder, known,
                                  seconds=180)
    return told


# The walk -----------------------------------------------------------------

def known_of(one: InUse, asked: str = '') -> Known:
    """A request's subject, for those who make and handle requests."""
    return Known(one.volume.id, Content(0, {}), asked=asked)


def walk(one: InUse, agent: Agent, name: str, ask: Callable[[], str],
         first: int, step: int) -> list[str]:
    """Handle requests, the first whole, others killed; how they ended.

    :param name: of the case of :mod:`.crash`.
    :param ask: makes what a request needs; the id of its row.
    :param first: effect in front of which it is killed, then every so many.
    """
    effects: list[str] = []
    ends: list[str] = []
    left = [-1]
    while left:
        at, known = left.pop(0), known_of(one, ask())
        with Moment(one.writer) as moment:
            seen = process.run(crash.request, one.world.folder, name, known,
                               at)
            # Progress is noted as time passes: there may be less of it.
            assert at < 0 or seen is None or len(seen) <= at
            end = process.run(recover, one.world.folder, known)
        if at < 0:
            effects = seen
            left = list(range(first, len(effects), step))
        try:
            note(one, known.asked, end, moment)
            whole(one, agent)
        except AssertionError as exc:
            raise AssertionError(f'killed in front of {effects[at]} '
                                 f'(effect {at} of {effects})') from exc
        ends.append(end)
    assert effects[-1] == 'return'
    return ends


def note(one: InUse, asked: str, end: str, moment: Moment) -> None:
    """Enter what has become of a snapshot."""
    if objects.Volume.exists(one.world.admin, asked):
        return
    if asked not in one.expected and end == 'available':
        one.expected[asked] = one.taken[asked] = moment.bounds
    elif asked in one.expected and end == 'gone':
        del one.expected[asked]


def whole(one: InUse, agent: Agent) -> None:
    """Records, files and guest tell one story, and nothing is left over."""
    one.check()
    audit.no_orphans(one.disk, audit.layers(one.world.disk(one.volume)))
    assert agent.client().list_jobs(one.volume.id, True) == ()
    rows = objects.SnapshotList.get_all_for_volume(one.world.admin,
                                                   one.volume.id)
    assert {row.id for row in rows} == set(one.expected), rows
    used = db.quota_usage_get_all_by_project(one.world.admin, 'project')
    assert used['snapshots']['in_use'] == len(rows)


def taken(one: InUse) -> str:
    """A snapshot that is counted."""
    count(one.world, 'snapshots', 1)
    return str(one.take().id)


def count(world: World, what: str, delta: int) -> None:
    """Count something in or out, as the API does."""
    quota.QUOTAS.commit(world.admin, quota.QUOTAS.reserve(
        world.admin, project_id='project', **{what: delta}),
        project_id='project')


def test_create(one: InUse, agent: Agent) -> None:
    def ask() -> str:
        row = one.row()
        count(one.world, 'snapshots', 1)
        row.create_worker()
        return str(row.id)

    ends = walk(one, agent, 'create', ask, 0, 3)
    assert set(ends) == {'available', 'error'}
    one.prove()


# Together they walk every effect.  QEMU pulls only into the active layer.
@pytest.mark.parametrize(('newest', 'up', 'first'), [
    (True, True, 0), (True, False, 1), (False, False, 2),
], ids=['newest-up', 'newest-down', 'middle-down'])
def test_delete(one: InUse, agent: Agent, newest: bool, up: bool,
                first: int) -> None:
    def ask() -> str:
        # The smaller layer is copied: that below is large if not up.
        if up:
            taken(one)
        else:
            one.fill(LARGE)
        asked = taken(one)
        if up:
            one.fill(LARGE)
        if not newest:
            taken(one)
        below.append(audit.below(one.world.disk(one.volume), asked)[0])
        return asked

    below: list[Path] = []
    taken(one)
    ends = walk(one, agent, 'delete-middle', ask, first, 3)
    assert set(ends) <= {'gone', 'available'}
    assert [layer.exists() for layer in below] == [
        not up or end == 'available' for end in ends]
    one.prove()


def test_clone(one: InUse, agent: Agent) -> None:
    def ask() -> str:
        one.writer.write_more(10)
        row = one.world.row(source_volid=one.volume.id)
        count(one.world, 'volumes', 1)
        row.create_worker()
        return str(row.id)

    ends = walk(one, agent, 'clone', ask, 3, 7)
    assert ends[0] == 'available'
    assert 'error' in ends
    made = [row for row in objects.VolumeList.get_all(one.world.admin)
            if row.id != one.volume.id]
    assert [row.status for row in made] == ['available'] * len(made)
    assert len(made) == ends.count('available')
    for row in made:
        disk = one.world.disk(row)
        audit.settled(disk)
        audit.active_holds(disk, one.writer.pattern)
    one.prove()


def test_unreachable_host(scene: Callable[..., InUse], agent: Agent
                          ) -> None:
    one = scene(assisted_bandwidth=MIB, assisted_agent_patience=3)
    taken(one)
    one.fill(LARGE)
    asked = taken(one)
    one.fill(LARGE)
    taken(one)
    known = known_of(one, asked)
    folder = one.world.folder
    assert process.run(killed_in_mid_job, folder, known, agent.host) is None
    agent.kill()
    rest = later(restarted, folder, known)
    waiting.until(lambda: rest.done() or (folder / 'told').exists(),
                  'a service that waits', 60)
    agent.start()
    assert any('is deleted' in line for line in rest.result(180))
    del one.expected[asked]
    whole(one, agent)
    one.prove()
