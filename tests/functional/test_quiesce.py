# SPDX-License-Identifier: Apache-2.0
"""Freezing a guest's file systems: honestly labelled, and never for long."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import signal

import libvirt
import libvirt_qemu
import pytest

from assisted_snapshots.agent.quiesce import Guard
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Consistency
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.guest import Guest
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.share import Share
from tests.functional.lab.share import Volume

MakeGuest = Callable[..., Guest]
MakeAgent = Callable[..., Agent]


def status(guest: Guest) -> str:
    """What the guest agent says of the file systems."""
    return str(guest.agent('guest-fsfreeze-status'))


def silence(guest: Guest) -> None:
    """Stop the guest agent; its channel stays open."""
    guest.run('(sleep 1; kill -STOP $(cat /run/qga.pid)) >/dev/null 2>&1 &')

    def silent() -> bool:
        try:
            libvirt_qemu.qemuAgentCommand(
                guest.domain, '{"execute": "guest-ping"}', 1, 0)
        except libvirt.libvirtError:
            return True
        return False
    waiting.until(silent, 'the silence of the guest agent', 20)


def request(share: Share, volume: Volume, quiesce: Quiesce,
            snapshot: str = 'snap-1') -> CreateRequest:
    """A snapshot of one volume, with its overlay made."""
    overlay = share.overlay(volume, snapshot)
    return CreateRequest((SnapshotDisk(volume.id, snapshot, overlay.name),),
                         quiesce)


def ended(agent: Agent, job: Job) -> Job:
    """The job when it has ended."""
    client = agent.client()
    while not job.state.final:
        job = client.wait_job(job.id, job.revision)
    return job


@pytest.fixture
def volume(share: Share) -> Volume:
    return share.ext4_volume()


@pytest.fixture
def running(guest: MakeGuest, volume: Volume) -> Guest:
    """A guest that runs with its volume mounted."""
    made = guest(volume)
    made.start()
    made.mount(volume)
    return made


@pytest.fixture
def guard(libvirtd: Libvirtd) -> Iterator[Guard]:
    made = Guard(libvirtd.uri)
    yield made
    made.stop()


def test_quiesced_snapshot_says_so(agent: Agent, share: Share,
                                   volume: Volume, running: Guest) -> None:
    made = request(share, volume, Quiesce.REQUIRE)
    job = ended(agent, agent.client().create_snapshot(made))
    assert job.state is State.DONE, job
    assert job.consistency == Consistency.FILESYSTEM
    assert status(running) == 'thawed'


def test_nothing_mounted_is_no_success(agent: Agent, share: Share,
                                       volume: Volume, guest: MakeGuest
                                       ) -> None:
    made = guest(volume)
    made.start()
    job = ended(agent, agent.client().create_snapshot(
        request(share, volume, Quiesce.TRY)))
    assert (job.state, job.consistency) == (State.DONE, Consistency.CRASH)
    assert 'no file system' in job.note


@pytest.mark.parametrize('quiesce', [Quiesce.TRY, Quiesce.REQUIRE])
def test_paused_guest(agent: Agent, share: Share, volume: Volume,
                      running: Guest, quiesce: Quiesce) -> None:
    running.suspend()
    job = ended(agent, agent.client().create_snapshot(
        request(share, volume, quiesce)))
    if quiesce is Quiesce.TRY:
        assert (job.state, job.consistency) == (State.DONE,
                                                Consistency.CRASH)
        assert 'paused' in job.note
    else:
        assert (job.state, job.error_code) == (State.FAILED,
                                               'quiesce-failed')
        assert running.chain(volume) == (volume.name,)


def test_guest_that_answers_nothing(make_agent: MakeAgent, share: Share,
                                    volume: Volume, running: Guest) -> None:
    """The snapshot is refused in time, and no freeze comes later."""
    agent = make_agent(quiesce_timeout=2)
    agent.start()
    silence(running)
    job = ended(agent, agent.client().create_snapshot(
        request(share, volume, Quiesce.REQUIRE)))
    assert (job.state, job.error_code) == (State.FAILED, 'quiesce-failed')
    assert running.chain(volume) == (volume.name,)


def test_deadline_thaws(guard: Guard, running: Guest) -> None:
    guard.arm(running.uuid, 1.0)
    running.agent('guest-fsfreeze-freeze')
    waiting.until(lambda: status(running) == 'thawed', 'the thaw', 20)


def test_death_of_the_agent_thaws(guard: Guard, running: Guest) -> None:
    guard.arm(running.uuid, 600.0)
    running.agent('guest-fsfreeze-freeze')
    guard.stop()
    waiting.until(lambda: status(running) == 'thawed', 'the thaw', 20)


def test_disarmed_guard_keeps_still(guard: Guard, running: Guest) -> None:
    guard.arm(running.uuid, 600.0)
    guard.disarm(running.uuid)
    running.agent('guest-fsfreeze-freeze')
    guard.stop()
    assert status(running) == 'frozen'
    running.agent('guest-fsfreeze-thaw')


def test_next_agent_thaws_what_the_journal_says(
        make_agent: MakeAgent, share: Share, volume: Volume,
        running: Guest) -> None:
    """Killed after it noted that it freezes, before it armed the guard."""
    agent = make_agent(crash_at=2)
    agent.start()
    with contextlib.suppress(errors.PeerSilent):
        agent.client(timeout=2).create_snapshot(
            request(share, volume, Quiesce.TRY))
    assert agent.wait() == -signal.SIGKILL
    running.agent('guest-fsfreeze-freeze')
    agent.options['crash_at'] = 0
    agent.start()
    job = ended(agent, agent.client().list_jobs()[0])
    assert (job.state, job.consistency) == (State.DONE,
                                            Consistency.FILESYSTEM)
    assert status(running) == 'thawed'
