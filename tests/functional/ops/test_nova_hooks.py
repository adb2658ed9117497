# SPDX-License-Identifier: Apache-2.0
"""The hooks of nova-compute hand over to a real agent and a real guest.

Nova's mappings and Cinder's rows are played by :class:`Records`, which can
be away as those can; what Cinder does with the files, the tests do by hand,
as upstream's driver does it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import json
import uuid

import pytest

from assisted_snapshots.nova_hooks.errors import AtWork
from assisted_snapshots.nova_hooks.handover import Handover
from assisted_snapshots.nova_hooks.jobs import Jobs
from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.errors import PeerSilent
from assisted_snapshots.rpcapi.messages import Job
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.guest import Moment
from tests.functional.lab.rabbit import Rabbit
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SLOW
from tests.functional.ops.ground import Watched


class Records:
    """Nova's mapping and Cinder's rows: what they were told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.away = False
        self.refused = 0

    def point(self, volume_id: str, name: str, form: str) -> bool:
        """As the block-device mapping."""
        assert volume_id
        self._hear('point', name, form)
        return True

    def tell_cinder(self, snapshot_id: str, status: str,
                    progress: str) -> None:
        """As Cinder."""
        self._hear(snapshot_id, status, progress)

    def _hear(self, *words: str) -> None:
        if self.away:
            self.refused += 1
            raise ConnectionError
        self.told.append(words)

    def end(self, snapshot: str) -> str:
        """The final status of a snapshot."""
        def told() -> str | None:
            return next((words[1] for words in self.told
                         if words[0] == snapshot and words[2] == '90%'),
                        None)
        return waiting.until(told, f'the end of {snapshot}')


class Nova:
    """One nova-compute with hooks, as far as snapshots go."""

    def __init__(self, ground: Ground, agent: Agent, rabbit: Rabbit) -> None:
        self.ground = ground
        self.agent = agent
        self.records = Records()
        self._transport = transport.make(url=rabbit.url)
        self.handover = self.another()

    def another(self, host: str = '', patience: float = 0.0) -> Handover:
        """A handover that does not take reports."""
        return Handover(AgentClient(self._transport,
                                    host or self.agent.host, 1),
                        self.records, patience=patience, interval=0.2)

    def start(self) -> None:
        """Begin to take reports."""
        self.handover.start(self._transport, self.agent.host,
                            target.REPORT_TOPIC)

    def restart(self) -> None:
        """Another process in its place."""
        self.handover = self.another()
        self.start()

    def stop(self) -> None:
        """End it."""
        self.handover.stop()

    def ask_create(self, one: Watched, snapshot: str = '') -> str:
        """Prepare an overlay and ask for a snapshot."""
        snapshot = snapshot or str(uuid.uuid4())
        path = one.volume.layer(snapshot)
        images.create(path, 'qcow2', backing=one.volume.active,
                      backing_format=one.volume.active_format)
        self.handover.create(one.volume.id, {
            'type': 'qcow2', 'snapshot_id': snapshot, 'new_file': path.name})
        return snapshot

    def create(self, one: Watched) -> str:
        """Take a snapshot, as Cinder and Nova do together."""
        with Moment(one.writer) as moment:
            snapshot = self.ask_create(one)
            assert self.records.end(snapshot) == 'creating'
        one.record(snapshot, moment.bounds)
        one.writer.write_more(FEW)
        return snapshot

    def ask_delete(self, one: Watched, snapshot: str, merge: str | None,
                   into: str | None) -> None:
        """Ask for a delete."""
        self.handover.delete(one.volume.id, snapshot, {
            'type': 'qcow2', 'volume_id': one.volume.id,
            'file_to_merge': merge, 'merge_target_file': into})


@pytest.fixture
def nova(ground: Ground, shared_agent: Agent,
         rabbit: Rabbit) -> Iterator[Nova]:
    """A nova-compute that takes reports."""
    nova = Nova(ground, shared_agent, rabbit)
    nova.start()
    yield nova
    nova.stop()


def forget(one: Watched, snapshot: str, gone: str, **moved: str) -> None:
    """What upstream's Cinder does once a delete is done."""
    info = {key: moved.get(key, file) for key, file
            in one.volume.info.items() if key != snapshot}
    one.files.info.write_text(json.dumps(info))
    (one.volume.folder / gone).unlink()
    del one.expected[snapshot]


def test_snapshots_come_and_go(ground: Ground, nova: Nova) -> None:
    """The mapping is right before Cinder hears; then oldest and newest."""
    one = ground.one('raw')
    first, second, third = (nova.create(one) for _ in range(3))
    base, *layers = one.live
    assert layers == [one.volume.layer(s).name for s in (first, second,
                                                         third)]
    words = nova.records.told
    assert words.index(('point', layers[2], 'qcow2')) < words.index(
        (third, 'creating', '90%'))

    nova.ask_delete(one, first, layers[0], base)
    assert nova.records.end(first) == 'creating'  # what came first
    waiting.until(lambda: (first, 'deleting', '90%') in words, 'the commit')
    assert one.live == (base, *layers[1:])
    forget(one, first, layers[0])

    nova.ask_delete(one, third, base, None)
    waiting.until(lambda: (third, 'deleting', '90%') in words, 'the pull')
    assert one.live == (base, layers[2])
    forget(one, third, layers[1], **{second: layers[2]})


def test_asked_again_it_takes_no_other_layer(ground: Ground,
                                             nova: Nova) -> None:
    """A delete whose answer was lost is repeated by Cinder or a user."""
    one = ground.one()
    first, second, third = (nova.create(one) for _ in range(3))
    base, low, middle, top = one.live
    nova.ask_delete(one, second, middle, low)
    words = nova.records.told
    waiting.until(lambda: (second, 'deleting', '90%') in words, 'the commit')
    live = one.live
    nova.ask_delete(one, second, middle, low)
    assert words.count((second, 'deleting', '90%')) == 2
    assert one.live == live == (base, low, top)
    assert len([job for job in ground.client.list_jobs(one.volume.id)
                if job.kind == 'delete']) == 1
    forget(one, second, middle)
    assert {first, third} == set(one.expected)


def test_nobody_is_there_when_it_ends(ground: Ground, nova: Nova) -> None:
    """The agent keeps the report for the next nova-compute."""
    one = ground.one()
    nova.stop()
    with Moment(one.writer) as moment:
        snapshot = nova.ask_create(one)
        waiting.until(lambda: one.live[-1].endswith(snapshot), 'the switch')
    one.record(snapshot, moment.bounds)
    assert nova.records.told == []
    nova.records.away = True
    nova.restart()
    nova.records.away = False
    assert nova.records.end(snapshot) == 'creating'
    assert nova.records.told[0] == ('point', one.live[-1], 'qcow2')


@pytest.mark.parametrize('why', ['busy', 'no agent', 'bad overlay'])
def test_refused(ground: Ground, nova: Nova, why: str) -> None:
    """Cinder is told, and nothing has changed."""
    one = ground.one()
    info = {'type': 'qcow2', 'snapshot_id': str(uuid.uuid4()),
            'new_file': 'volume-none'}
    handover = nova.another('nowhere' if why == 'no agent' else '')
    one.unchanged(handover.create, one.volume.id, info,
                  'it is migrating' if why == 'busy' else '')
    assert nova.records.told == [(info['snapshot_id'], 'error', '90%')]
    nova.records.told.clear()
    one.unchanged(handover.delete, one.volume.id, info['snapshot_id'], {
        'type': 'qcow2', 'file_to_merge': 'volume-none',
        'merge_target_file': one.volume.name})
    assert nova.records.told == [
        (info['snapshot_id'], 'error_deleting', '90%')]


def test_a_refusal_waits_for_cinder(ground: Ground, nova: Nova) -> None:
    """No report will come: the word of the hooks is the only one."""
    one = ground.one()
    info = {'type': 'qcow2', 'snapshot_id': str(uuid.uuid4()),
            'new_file': 'volume-none'}
    nova.records.away = True
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(nova.another(patience=60).create, one.volume.id,
                            info, 'it is migrating')
        waiting.until(lambda: nova.records.refused, 'the first attempt')
        nova.records.away = False
        asked.result()
    assert nova.records.told == [(info['snapshot_id'], 'error', '90%')]


def amidst_delete(ground: Ground, agent: Agent, rabbit: Rabbit
                  ) -> tuple[Nova, Watched, str, Job]:
    """A slow agent that is about a deletion."""
    agent.start()
    ground.serve_with(agent)
    nova = Nova(ground, agent, rabbit)
    nova.start()
    one = ground.one()
    one.fill(LARGE)
    snapshot = nova.create(one)
    nova.ask_delete(one, snapshot, None, None)
    job, = ground.client.list_jobs(one.volume.id, True)
    return nova, one, snapshot, job


def test_what_a_job_is_in_the_way_of(
        ground: Ground, make_agent: Callable[..., Agent],
        rabbit: Rabbit) -> None:
    """It waits for the end of the job; in vain, it says which job it is.

    Other volumes do not matter, and an agent that is not there is no answer.
    """
    agent = make_agent('compute-held', bandwidth=SLOW)
    nova, one, snapshot, job = amidst_delete(ground, agent, rabbit)
    hasty = Jobs(ground.client, 0.0)
    hasty.ended(['another'])
    with pytest.raises(AtWork, match=f'delete of {snapshot} .*{job.id}'):
        hasty.ended([one.volume.id, 'another'])
    ground.client.set_bandwidth(job.id, 0)
    Jobs(ground.client, 60.0).ended([one.volume.id])
    assert ground.client.get_job(job.id).state.final
    forget(one, snapshot, one.volume.name)
    nova.stop()
    nobody = AgentClient(transport.make(url=rabbit.url), 'nowhere', 1)
    with pytest.raises(PeerSilent):
        Jobs(nobody, 0.0).ended([one.volume.id])


def test_progress_reaches_cinder(
        ground: Ground, make_agent: Callable[..., Agent],
        rabbit: Rabbit) -> None:
    """Percentages while it runs, never the one that means done."""
    agent = make_agent('compute-slow', bandwidth=SLOW, poll_interval=0.2)
    nova, one, snapshot, job = amidst_delete(ground, agent, rabbit)

    def percents() -> list[int]:
        return [int(words[2].removesuffix('%'))
                for words in nova.records.told
                if words[:2] == (snapshot, 'deleting')]

    waiting.until(lambda: any(percents()), 'some progress')
    assert max(percents()) < 90
    ground.client.set_bandwidth(job.id, 0)
    waiting.until(lambda: percents()[-1] == 90, 'the end')
    forget(one, snapshot, one.volume.name)
    nova.stop()


def test_a_disk_that_has_its_size_is_left_alone(ground: Ground,
                                                nova: Nova) -> None:
    """Also if it has been extended again since Nova was told."""
    one = ground.one()
    device = one.machine.device(one.volume)

    def seen() -> int:
        return 512 * int(one.machine.run(f'cat /sys/block/{device}/size'))
    size = 2 * seen()
    for asked in (size, size, size // 2):
        assert nova.handover.extend(one.volume.id, asked)
        assert seen() == size
    assert not nova.another('nowhere').extend(one.volume.id, 2 * size)
    assert not nova.handover.extend(str(uuid.uuid4()), size)
    assert seen() == size
