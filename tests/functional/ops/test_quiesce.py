# SPDX-License-Identifier: Apache-2.0
"""Freezing a guest's file systems: consistent, honest, and never for long."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import uuid

import libvirt
import pytest

from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.content import Bounds
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.share import MIB
from tests.functional.ops.ground import CONSISTENT
from tests.functional.ops.ground import CRASH
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import Watched


def mounted(ground: Ground) -> Watched:
    """A guest that writes a file in a mounted ext4.

    A second, small disk lets the test call on a guest without its agent:
    the guest sees it grow.
    """
    volume = ground.share.ext4_volume()
    machine = ground.guest(volume, ground.share.volume('raw', MIB))
    machine.mount(volume)
    one = ground.watch(machine, volume, blocks=256, file='records')
    one.writer.write_more(FEW)
    return one


def status(one: Watched) -> str:
    """Whether the guest is frozen; all it tells while it is."""
    return str(one.machine.agent('guest-fsfreeze-status'))


def test_frozen_snapshot_needs_no_journal_replay(ground: Ground) -> None:
    one = mounted(ground)
    wanted = one.create('require')
    tried = one.grow(FEW, lambda: one.create('try'))
    without = one.grow(FEW, lambda: one.create('off'))
    assert [one.labels[s] for s in (wanted, tried, without)] == [
        CONSISTENT, CONSISTENT, CRASH]
    assert 'not asked for' in one.jobs[-1].note
    assert status(one) == 'thawed'
    one.writer.write_more(FEW)


def test_nothing_to_freeze_is_not_called_consistent(ground: Ground) -> None:
    one = ground.one()
    one.writer.write_more(FEW)
    assert one.labels[one.create('try')] == CRASH
    assert 'no file system' in one.jobs[-1].note
    with pytest.raises(GuestFailed, match='no file system') as caught:
        one.unchanged(one.create, 'require')
    assert caught.value.fields['code'] == 'quiesce-failed'
    one.writer.write_more(FEW)


# --- a guest whose agent is away -------------------------------------------

QGA = 'p=/sys/class/virtio-ports; for d in $p/*; do ' \
      '[ "$(cat $d/name)" = org.qemu.guest_agent.0 ] && ' \
      'qemu-ga -d -m virtio-serial -p /dev/${d##*/} -f /run/qga.pid -t /run;' \
      ' done'


@contextmanager
def without_agent(one: Watched, away: str, back: str) -> Iterator[int]:
    """Do something to the guest's agent until the second disk grows.

    Yields the last record acknowledged before.
    """
    size = '/sys/block/vdb/size'
    lowest = one.writer.progress().acknowledged
    one.machine.run(
        f'(sleep 0.2; s=$(cat {size}); {away}; '
        f'while [ $(cat {size}) = $s ]; do sleep 0.1; done; {back}) '
        '</dev/null >/dev/null 2>&1 &')
    yield lowest
    one.machine.domain.blockResize('vdb', 2 * MIB,
                                   libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    one.machine.wait_ready()


def away(one: Watched) -> bool:
    """Whether libvirt has noticed that the guest's agent is gone."""
    return "state='disconnected'" in one.machine.domain.XMLDesc()


def take(one: Watched, lowest: int) -> str:
    """Try to quiesce a guest that can not be asked anything; its label."""
    snapshot = str(uuid.uuid4())
    one.labels[snapshot] = one.operations().create(snapshot, 'try')
    one.expected[snapshot] = Bounds(lowest, 1 << 62)
    return snapshot


def refused(one: Watched) -> str:
    """Require quiescing where that cannot be; the reason."""
    with pytest.raises(GuestFailed) as caught:
        one.unchanged(one.operations().create, str(uuid.uuid4()), 'require')
    assert caught.value.fields['code'] == 'quiesce-failed'
    return str(caught.value)


def test_guest_without_an_agent(ground: Ground) -> None:
    one = mounted(ground)
    with without_agent(one, 'kill $(cat /run/qga.pid)', QGA) as lowest:
        waiting.until(lambda: away(one), 'the guest agent being gone')
        assert 'no guest agent' in refused(one)
        snapshot = take(one, lowest)
    assert one.labels[snapshot] == CRASH
    assert 'no guest agent' in one.jobs[-1].note
    one.writer.write_more(FEW)


# --- deadlines -------------------------------------------------------------

@pytest.fixture
def hasty(make_agent: Callable[..., Agent], ground: Ground) -> Agent:
    """An agent that lets nobody be frozen for long."""
    agent = make_agent(poll_interval=0.2, quiesce_timeout=2)
    agent.start()
    ground.serve_with(agent)
    return agent


def test_guest_whose_agent_hangs_does_not_stay_frozen(
        ground: Ground, hasty: Agent) -> None:
    """It answers late; then it must not freeze, or not for long."""
    one = mounted(ground)
    pid = '$(cat /run/qga.pid)'
    with without_agent(one, f'kill -STOP {pid}', f'kill -CONT {pid}'
                       ) as lowest:
        waiting.until(lambda: mute(one), 'the guest agent being mute')
        refused(one)
        snapshot = take(one, lowest)
        assert one.labels[snapshot] == CRASH
        assert 'not quiesced' in one.jobs[-1].note
    waiting.until(lambda: status(one) == 'thawed', 'the thaw')
    one.writer.write_more(FEW)


def mute(one: Watched) -> bool:
    """Whether the guest's agent does not answer."""
    try:
        one.machine._ask('guest-ping', 1)
    except libvirt.libvirtError:
        return True
    return False


@contextmanager
def occupied(one: Watched, libvirtd: Libvirtd, folder: Path
             ) -> Iterator[None]:
    """Have libvirt busy with the guest, so that a snapshot must wait.

    A live dump to a pipe that nobody reads; the guest goes on running.
    """
    pipe = folder / 'dump'
    os.mkfifo(pipe)
    domain = libvirtd.connect().lookupByName(one.machine.name)
    dump = one.ground.later(_dump, domain, pipe)
    with open(pipe, 'rb'):
        waiting.until(lambda: one.machine.domain.jobInfo()[0],
                      'the dump being under way')
        yield
    # A pipe without a reader ends the dump.
    dump.result(60)


def _dump(domain: libvirt.virDomain, pipe: Path) -> None:
    try:
        domain.coreDump(str(pipe), libvirt.VIR_DUMP_LIVE)
    except libvirt.libvirtError:
        return
    raise AssertionError('the dump was not held up')


def freezing(one: Watched) -> tuple[str, Job]:
    """Ask for a quiesced snapshot; wait until the guest is frozen."""
    snapshot = str(uuid.uuid4())
    overlay = one.ground.share.overlay(one.volume, snapshot)
    job = one.offer(overlay.name, Quiesce.TRY, snapshot)
    waiting.until(lambda: status(one) == 'frozen', 'the freeze')
    return snapshot, job


def test_deadline_ends_the_freeze_and_the_label_says_so(
        ground: Ground, hasty: Agent, libvirtd: Libvirtd, tmp_path: Path
        ) -> None:
    one = mounted(ground)
    lowest = one.writer.progress().acknowledged
    with occupied(one, libvirtd, tmp_path):
        snapshot, job = freezing(one)
        waiting.until(lambda: status(one) == 'thawed', 'the deadline')
        assert ground.client.get_job(job.id).state is State.RUNNING
        assert one.live == one.names('')
        one.writer.write_more(FEW)
    end = one.ended(job)
    assert (end.state, end.consistency) == (State.DONE, CRASH)
    assert 'thawed before' in end.note
    one.record(snapshot, Bounds(lowest, one.writer.progress().submitted))
    one.writer.write_more(FEW)


def test_guest_is_thawed_when_the_agent_is_killed(
        ground: Ground, make_agent: Callable[..., Agent],
        libvirtd: Libvirtd, tmp_path: Path) -> None:
    agent = make_agent(poll_interval=0.2, quiesce_timeout=300)
    agent.start()
    ground.serve_with(agent)
    one = mounted(ground)
    lowest = one.writer.progress().acknowledged
    with occupied(one, libvirtd, tmp_path):
        snapshot, job = freezing(one)
        agent.kill()
        waiting.until(lambda: status(one) == 'thawed', 'the thaw')
        one.writer.write_more(FEW)
        agent.start()
        assert ground.client.get_job(job.id).state is State.RUNNING
    end = one.ended(job)
    assert end.state is State.DONE
    # libvirtd may still do what the killed agent asked for, or the new one
    # has it done, frozen again.  The content shows whether the label lies.
    one.labels[snapshot] = end.consistency
    one.record(snapshot, Bounds(lowest, one.writer.progress().submitted))
    assert status(one) == 'thawed'
    one.writer.write_more(FEW)
