# SPDX-License-Identifier: Apache-2.0
"""Merges in flight: bandwidth, pause, abort, waiting, convergence."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import libvirt
import pytest

from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.share import MIB
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SLOW
from tests.functional.ops.ground import SMALL
from tests.functional.ops.ground import Watched

#: What a guest can still write faster.
FAST = 4 * MIB


def limit(one: Watched) -> int:
    """The limit of the volume's block job, as libvirt tells it."""
    info = one.machine.domain.blockJobInfo(
        one.machine.device(one.volume),
        libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
    return int(info['bandwidth'])


def becomes(one: Watched, bandwidth: int) -> None:
    """Wait until libvirt tells that limit."""
    waiting.until(lambda: limit(one) == bandwidth, f'limit {bandwidth}', 20)


def mid_chain(ground: Ground) -> tuple[Watched, str]:
    """A guest and a snapshot whose delete is a commit below the top."""
    one = ground.one()
    s1, _s2 = one.layers(SMALL, LARGE, SMALL)
    return one, s1


def test_bandwidth_is_set_and_raised(ground: Ground) -> None:
    one, snapshot = mid_chain(ground)
    job, rest = one.deleting(snapshot)
    assert (job.bandwidth, limit(one)) == (SLOW, SLOW)
    assert ground.client.set_bandwidth(job.id, SLOW // 2).state is (
        State.RUNNING)
    becomes(one, SLOW // 2)
    assert not rest.done()
    assert ground.client.set_bandwidth(job.id, 0).bandwidth == 0
    done(rest.result(60), 'commit')


def test_pause_holds_and_resume_goes_on(ground: Ground) -> None:
    one, snapshot = mid_chain(ground)
    job, rest = one.deleting(snapshot)
    assert ground.client.pause_job(job.id).paused
    becomes(one, 1)
    held = ground.client.get_job(job.id).done_bytes
    one.writer.write_more(5 * FEW)
    now = ground.client.get_job(job.id)
    # What QEMU had begun to copy when it was told may still arrive.
    assert now.done_bytes - held <= MIB
    assert (now.paused, now.state) == (True, State.RUNNING)
    assert now.condition is Condition.OK
    ground.client.resume_job(job.id)
    becomes(one, SLOW)
    ground.client.set_bandwidth(job.id, 0)
    done(rest.result(60), 'commit')


def test_paused_active_commit_does_not_pivot(ground: Ground) -> None:
    one = ground.one(delay=0.01)
    snapshot, = one.layers(LARGE, SMALL)
    job, rest = one.deleting(snapshot, bandwidth=SLOW // 4)
    ground.client.pause_job(job.id)
    one.writer.write_more(FEW)
    assert one.live == one.names('', snapshot)
    assert ground.client.get_job(job.id).state is State.RUNNING
    ground.client.resume_job(job.id)
    ground.client.set_bandwidth(job.id, 0)
    done(rest.result(60), 'active-commit')
    assert one.live == one.names('')


def test_wait_answers_when_something_happens(ground: Ground) -> None:
    one, snapshot = mid_chain(ground)
    job, rest = one.deleting(snapshot)
    job = ground.client.pause_job(job.id)
    answers = ground.later(follow, one, job)
    one.writer.write_more(FEW)
    assert not answers.done()
    told = ground.client.resume_job(job.id)
    # An answer that had come for nothing would be no newer.
    revisions = answers.result(60)
    assert revisions == sorted(set(revisions))
    assert revisions[-1] >= told.revision
    # An old revision is answered at once; so is a job that has ended.
    assert ground.client.wait_job(job.id, 0, 30).revision >= told.revision
    ground.client.set_bandwidth(job.id, 0)
    end = rest.result(60)
    assert ground.client.wait_job(job.id, end.revision, 30) == end


def follow(one: Watched, job: Job) -> list[int]:
    """Wait for one change after the other until the job is resumed."""
    seen = [job.revision]
    while job.paused:
        job = one.ground.client.wait_job(job.id, job.revision, 30)
        seen.append(job.revision)
    return seen


def aborted(one: Watched, job: Job, rest: Future[Job]) -> Job:
    """Abort a delete in flight; the job as it ended."""
    names = one.live
    one.ground.client.abort_job(job.id)
    with pytest.raises(GuestFailed, match='aborted') as caught:
        rest.result(60)
    assert caught.value.fields['code'] == 'job-aborted'
    assert one.live == names
    end = one.ground.client.get_job(job.id)
    assert (end.state, end.error_code) == (State.ABORTED, '')
    assert one.ground.client.abort_job(job.id).state is State.ABORTED
    with pytest.raises(errors.JobState):
        one.ground.client.resume_job(job.id)
    return end


def test_aborted_pull_leaves_all_as_it_was(ground: Ground) -> None:
    one = ground.one()
    s1, s2 = one.layers(LARGE, LARGE // 2, LARGE)
    job, rest = one.deleting(s2)
    assert job.method == 'pull'
    end = aborted(one, job, rest)
    assert 'may be gone' not in end.note
    # The journal holds nothing back: the next operations go ahead.
    one.grow(FEW, one.create)
    done(one.delete(s2), 'commit')
    assert s1 in one.expected


@pytest.mark.parametrize('method', ['commit', 'active-commit'])
def test_aborted_commit_costs_only_the_deleted_snapshot(
        ground: Ground, method: str) -> None:
    """What was committed stays below: the snapshot itself is damaged."""
    one = ground.one(delay=0.005)
    newer = [SMALL] if method == 'commit' else []
    snapshot = one.layers(LARGE + 8, LARGE // 2, *newer)[0]
    job, rest = one.deleting(snapshot)
    assert job.method == method
    assert 'may be gone' in aborted(one, job, rest).note
    one.writer.write_more(FEW)
    done(one.delete(snapshot), method)
    one.writer.write_more(FEW)


@pytest.fixture
def impatient(make_agent: Callable[..., Agent], ground: Ground) -> Agent:
    """An agent that soon sees whether a job converges."""
    agent = make_agent(poll_interval=0.2, convergence_window=2)
    agent.start()
    ground.serve_with(agent)
    return agent


def outwrite(one: Watched) -> tuple[Job, Future[Job]]:
    """Delete the newest snapshot more slowly than the guest writes."""
    snapshot, = one.layers(LARGE + 16, LARGE - 8)
    again = one.filling(LARGE - 8)
    one.machine.run(f'(while :; do {again}; sleep 0.3; done) '
                    '</dev/null >/dev/null 2>&1 &')
    return one.deleting(snapshot, bandwidth=FAST)


def test_limit_is_lifted_where_the_guest_is_faster(
        ground: Ground, impatient: Agent) -> None:
    one = ground.one()
    job, rest = outwrite(one)
    end = rest.result(90)
    done(end, 'active-commit')
    assert (end.id, end.bandwidth) == (job.id, 0)
    assert any('limit was lifted' in told.note for told in one.jobs)
    assert one.live == one.names('')


def test_job_that_cannot_converge_is_told_and_can_be_aborted(
        ground: Ground, impatient: Agent) -> None:
    impatient.options['raise_bandwidth'] = False
    impatient.reload()
    one = ground.one()
    job, rest = outwrite(one)
    told = condition(one, job, Condition.NOT_CONVERGING)
    assert 'writes as fast' in told.note
    assert (told.bandwidth, told.state) == (FAST, State.RUNNING)
    aborted(one, job, rest)
    # What has been committed stays below, so it is to be repeated.
    done(one.delete(job.subjects[0]), 'active-commit')


def condition(one: Watched, job: Job, wanted: Condition) -> Job:
    """Wait until a job fares like that."""
    def told() -> Job | None:
        now = one.ground.client.wait_job(job.id, job.revision, 1)
        return now if now.condition is wanted else None
    return waiting.until(told, wanted, 60, 0.2)
