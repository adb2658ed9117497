# SPDX-License-Identifier: Apache-2.0
"""What the shell promises about real jobs of a real guest."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import threading
import uuid

import pytest

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.guest import AgentGuest
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.guest import Guest
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Share
from tests.functional.lab.share import Volume

MakeGuest = Callable[..., Guest]
SLOW = 64 * 1024


class House:
    """A guest that runs on one volume."""

    def __init__(self, share: Share, guest: MakeGuest) -> None:
        self._share = share
        self.volume: Volume = share.volume()
        self.guest = guest(self.volume)
        self.guest.start()

    def snapshot(self) -> CreateRequest:
        """A request whose overlay is prepared."""
        name = str(uuid.uuid4())
        overlay = self._share.overlay(self.volume, name)
        return CreateRequest((SnapshotDisk(self.volume.id, name,
                                           overlay.name),), Quiesce.OFF)

    def deletion(self, request: CreateRequest) -> MergeRequest:
        """A request to delete the only snapshot."""
        disk = request.disks[0]
        chain = (self.volume.name, disk.new_file)
        return MergeRequest(Kind.DELETE, self.volume.id, disk.snapshot_id,
                            chain, chain, chain[0])

    def write(self, size: int = 8 * MIB) -> None:
        """Put data into the active layer."""
        self.guest.run(f'dd if=/dev/urandom of=/dev/vda bs=1M '
                       f'count={size // MIB} conv=fsync')

    @property
    def chain(self) -> tuple[str, ...]:
        return self.guest.chain(self.volume)


@pytest.fixture
def house(share: Share, guest: MakeGuest) -> House:
    return House(share, guest)


def done(client_job: Callable[[], Job]) -> Job:
    return waiting.until(
        lambda: job if (job := client_job()).state.final else None,
        'the end of the job')


def test_submission_asked_twice_is_one_job(house: House,
                                           agent: Agent) -> None:
    client = agent.client()
    request = house.snapshot()
    first = client.create_snapshot(request)
    assert client.create_snapshot(request).id == first.id
    done(lambda: client.get_job(first.id))
    assert client.create_snapshot(request).id == first.id
    assert house.chain == (house.volume.name, request.disks[0].new_file)
    assert len(client.list_jobs(house.volume.id)) == 1


def test_submission_repeated_after_a_crash_is_one_job(
        house: House, make_agent: Callable[..., Agent]) -> None:
    """The agent dies when the job is journaled; nobody has its answer."""
    agent = make_agent(crash_at=1)
    agent.start()
    request = house.snapshot()
    with pytest.raises(errors.PeerSilent):
        agent.client(timeout=2).create_snapshot(request)
    assert agent.wait() < 0
    agent.options['crash_at'] = 0
    agent.start()
    client = agent.client()
    job = client.create_snapshot(request)
    assert done(lambda: client.get_job(job.id)).state is State.DONE
    assert len(client.list_jobs(house.volume.id)) == 1
    assert house.chain == (house.volume.name, request.disks[0].new_file)


def test_jobs_are_taken_up_while_the_broker_is_away(
        house: House, make_agent: Callable[..., Agent],
        rabbit: Rabbit) -> None:
    agent = make_agent(crash_at=1)
    agent.start()
    request = house.snapshot()
    with contextlib.suppress(errors.PeerSilent):
        agent.client(timeout=1).create_snapshot(request)
    assert agent.wait() < 0
    rabbit.terminate()
    agent.options['crash_at'] = 0
    agent.start(ready=False)
    waiting.until(lambda: len(house.chain) == 2, 'the snapshot')


@pytest.mark.parametrize('backend', ['threading', 'eventlet'])
def test_guest_side_survives_agent_and_broker(
        house: House, make_agent: Callable[..., Agent], rabbit: Rabbit,
        backend: str) -> None:
    """A whole snapshot and its deletion, with trouble in the middle."""
    agent = make_agent(**{'DEFAULT.concurrency_backend': backend,
                          'bandwidth': SLOW})
    agent.start()
    client = agent.client(timeout=3)
    seen: list[Job] = []

    def speed_up() -> bool:
        with contextlib.suppress(errors.PeerSilent, errors.BrokerUnreachable):
            return client.set_bandwidth(seen[-1].id, 0).bandwidth == 0
        return False

    def make_trouble() -> None:
        agent.kill()
        agent.start()
        rabbit.restart()
        waiting.until(speed_up, 'an agent that answers')
    trouble = threading.Thread(target=make_trouble)

    def progress(job: Job) -> None:
        seen.append(job)
        if job.state is State.RUNNING and trouble.ident is None:
            trouble.start()
    side = AgentGuest(client, progress=progress, patience=60)
    request = house.snapshot()
    done(lambda: client.create_snapshot(request))
    house.write()
    merge = house.deletion(request)
    side.merge(merge.volume_id, merge.subject, merge.kind, merge.before,
               merge.merged, merge.survivor)
    assert house.chain == merge.after
    assert seen[-1].state is State.DONE
    trouble.join()


def test_reload_changes_the_limit_of_the_next_merge(
        house: House, make_agent: Callable[..., Agent]) -> None:
    agent = make_agent(bandwidth=SLOW)
    agent.start()
    pid = agent.pid
    client = agent.client()
    request = house.snapshot()
    done(lambda: client.create_snapshot(request))
    house.write()
    slow = client.merge(house.deletion(request))
    assert slow.bandwidth == SLOW
    client.abort_job(slow.id)
    done(lambda: client.get_job(slow.id))
    agent.options['bandwidth'] = 2 * SLOW
    agent.reload()
    waiting.until(lambda: 'agent.bandwidth changed' in agent.log.read_text(),
                  'the reload')
    again = client.merge(house.deletion(request))
    assert again.bandwidth == 2 * SLOW
    assert agent.pid == pid
