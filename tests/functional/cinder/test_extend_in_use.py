# SPDX-License-Identifier: Apache-2.0
"""Volumes grow in a guest: real driver, real agent, real guest."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from cinder import exception
from cinder import quota
from cinder.db import api as db
from oslo_config import cfg
import pytest

from assisted_snapshots.cinder_driver import asked
from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.inuse import InUse
from tests.functional.cinder.lab.inuse import later
from tests.functional.cinder.lab.inuse import seen
from tests.functional.cinder.lab.inuse import sizes
from tests.functional.cinder.lab.nova import Nova
from tests.functional.cinder.lab.world import GIB
from tests.functional.cinder.lab.world import World
from tests.functional.lab.agent import Agent
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.stage import Stage

MIB = 1 << 20
BOTH = pytest.mark.parametrize('cow', [False, True], ids=['raw', 'qcow2'])


@pytest.fixture
def nova(cinder: World) -> Iterator[Nova]:
    """A Nova that Cinder tells of what it does."""
    service = Nova()
    service.start()
    service.introduce()
    yield service
    service.stop()


@pytest.fixture
def scene(cinder: World, stage: Stage, agent: Agent, rabbit: Rabbit
          ) -> Callable[..., InUse]:
    """Boots a guest that writes on a volume of the driver."""
    def make(**options: Any) -> InUse:
        driver = cinder.make_driver(**{
            'assisted_agent': 'always',
            'assisted_agent_transport_url': rabbit.url, **options})
        return boot(cinder, stage, driver, agent.host,
                    cinder.volume(driver=driver))[0]
    return make


@pytest.fixture
def one(scene: Callable[..., InUse]) -> InUse:
    """A guest with one raw volume."""
    return scene()


def extend(one: InUse, size: int) -> None:
    """Extend it, as the manager does."""
    row = one.world.become(one.volume, 'extending')
    try:
        one.driver.extend_volume(row, size)
    except Exception:
        one.world.become(one.volume, 'error_extending')
        raise
    one.world.settle(row, {'size': size}, 'in-use')


def events(nova: Nova) -> list[tuple[str, str]]:
    """Which servers were told of which volume."""
    return [(event['server_uuid'], event['tag'])
            for kind, event in nova.requests if kind == 'event'
            and event['name'] == 'volume-extended']


@BOTH
def test_life(scene: Callable[..., InUse], cow: bool) -> None:
    one = scene(nfs_qcow2_volumes=cow)
    extend(one, 2)
    assert (seen(one), sizes(one)) == (2 * GIB, [2 * GIB])
    oldest, middle = one.take(), one.take()
    extend(one, 3)
    assert (seen(one), sizes(one)) == (3 * GIB, [2 * GIB, 2 * GIB, 3 * GIB])
    newest = one.take()
    one.check()
    for snapshot in (middle, newest, oldest):
        one.delete(snapshot)
        one.check()
        one.snapshots_hold()
    assert (seen(one), sizes(one)) == (3 * GIB, [3 * GIB])
    one.prove()


def test_a_server_that_is_shut_off(one: InUse) -> None:
    one.take()
    one.rest()
    one.guest.destroy()
    extend(one, 2)
    one.check()
    one.guest.start()
    assert (seen(one), sizes(one)) == (2 * GIB, [GIB, 2 * GIB])
    one.prove()


def test_a_suspended_server_is_refused(one: InUse) -> None:
    """Nothing is left of it, not even an intent."""
    one.rest()
    one.guest.domain.managedSave(0)
    with pytest.raises(exception.ExtendVolumeError, match='managed-save'):
        extend(one, 2)
    assert one.driver.recovery.sweep() == []
    assert sizes(one) == [GIB]
    one.guest.domain.managedSaveRemove(0)
    one.world.become(one.volume, 'in-use')
    one.prove()


def test_the_share_is_too_small(one: InUse) -> None:
    with pytest.raises(exception.ExtendVolumeError, match='bytes free'):
        extend(one, 1 << 20)
    assert sizes(one) == [GIB]
    one.world.become(one.volume, 'in-use')
    one.prove()


def test_it_waits_for_a_deletion(scene: Callable[..., InUse],
                                 agent: Agent) -> None:
    one = scene(assisted_bandwidth=MIB // 4)
    client = agent.client()
    _, job, deletion = one.begin_delete(client)
    growth = later(extend, one, 2)
    one.writer.write_more(60)
    assert (growth.done(), seen(one)) == (False, GIB)
    client.set_bandwidth(job.id, 0)
    deletion.result(60)
    growth.result(60)
    assert seen(one) == 2 * GIB
    one.check()
    one.prove()


@pytest.mark.parametrize('step', ['resize', 'answer'])
def test_an_agent_that_dies(scene: Callable[..., InUse], agent: Agent,
                            nova: Nova, step: str) -> None:
    """Recovery ends it with the next one; all the records agree."""
    one = scene(assisted_agent_patience=1)
    one.take()
    count(one)
    used = gigabytes(one)
    agent.kill()
    agent.options['crash_at'] = ('resize', 'answer').index(step) + 1
    agent.start()
    with pytest.raises(exception.ExtendVolumeError, match='no answer'):
        extend(one, 2)
    assert agent.wait() < 0
    backend, row = one.driver.backend, one.world.fresh(one.volume)
    assert seen(one) == (2 * GIB if step == 'answer' else GIB)
    assert (row.status, row.size) == ('error_extending', 1)
    assert asked.by(backend, row) == asked.AGENT
    agent.options['crash_at'] = 0
    agent.start()
    assert one.driver.recovery.sweep()
    row = one.world.fresh(one.volume)
    assert (row.status, row.size) == ('in-use', 2)
    assert asked.by(backend, row) == ''
    assert events(nova) == [(one.guest.uuid, one.volume.id)]
    assert gigabytes(one) == used + 1
    assert (seen(one), sizes(one)) == (2 * GIB, [GIB, 2 * GIB])
    assert one.driver.recovery.sweep() == []
    one.prove()


def test_what_failed_and_has_grown_is_noted(one: InUse, agent: Agent,
                                            nova: Nova) -> None:
    """Though nothing is unfinished; what has not grown stays as it is."""
    cfg.CONF.set_override('service_down_time', 0)
    one.world.become(one.volume, 'error_extending')
    assert one.driver.recovery.sweep() == []
    agent.client().extend(one.volume.id, 2 * GIB)
    assert one.driver.recovery.sweep()
    row = one.world.fresh(one.volume)
    assert (row.status, row.size) == ('in-use', 2)
    assert events(nova) == [(one.guest.uuid, one.volume.id)]
    one.prove()


def count(one: InUse) -> None:
    """Have quota count; it begins with the rows there are."""
    for delta in (1, -1):
        quota.QUOTAS.commit(one.world.admin, quota.QUOTAS.reserve(
            one.world.admin, project_id='project', gigabytes=delta),
            project_id='project')


def gigabytes(one: InUse) -> int:
    """What quota has counted."""
    found = db.quota_usage_get_all_by_project(one.world.admin, 'project')
    return int(found['gigabytes']['in_use'])
