# SPDX-License-Identifier: Apache-2.0
"""AgentGuest waits for the end of a job, whatever happens in between.

The other side is a peer that follows a script; a step is an answer, an error
to raise, or SILENCE for a call that is never answered.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

import oslo_messaging as messaging
import pytest

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.guest import AgentGuest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State
from tests.functional.rpc.peer import Peer

Peers = Callable[..., Peer]
SILENCE = object()
LOST = errors.JobNotFound(job_id='j1', host='h')
DOWN = errors.HypervisorDown(uri='u', reason='r')
MERGE = ('v1', 's1', 'delete', ('a', 'b'), ('a', 'b'), 'a')


def job(revision: int, state: str, **more: object) -> dict[str, Any]:
    return {'id': 'j1', 'kind': 'delete', 'volumes': ['v1'],
            'subjects': ['s1'], 'state': state, 'revision': revision} | more


class Script:
    """Answers the calls of one method, in order."""

    def __init__(self, *steps: object) -> None:
        self._steps = list(steps)

    def __call__(self, **_args: object) -> object:
        step = self._steps.pop(0)
        if step is SILENCE:
            # longer than the client's timeout, answered to nobody
            threading.Event().wait(2)
        if isinstance(step, Exception):
            raise step
        return step if step is not SILENCE else {}


@pytest.fixture
def hasty(way: messaging.RPCTransport, host: str,
          monkeypatch: pytest.MonkeyPatch) -> AgentClient:
    """A client that does not wait long for lost answers."""
    monkeypatch.setattr('assisted_snapshots.rpcapi.guest._WAIT', 0.5)
    return AgentClient(way, host, timeout=1)


def names(peer: Peer) -> list[str]:
    return [name for name, _ in peer.calls]


def test_waits_until_it_is_done_and_shows_progress(
        peer: Peers, hasty: AgentClient) -> None:
    there = peer(merge=Script(job(1, 'accepted')), wait_job=Script(
        job(2, 'running', done_bytes=5), job(2, 'running', done_bytes=5),
        job(3, 'flushing'), job(4, 'done')))
    seen: list[Job] = []
    AgentGuest(hasty, progress=seen.append).merge(*MERGE)
    assert [(j.revision, j.state) for j in seen] == [
        (1, State.ACCEPTED), (2, State.RUNNING), (3, State.FLUSHING),
        (4, State.DONE)]
    assert [args['revision'] for name, args in there.calls
            if name == 'wait_job'] == [1, 2, 2, 3]


def test_create_tells_what_the_snapshot_is_worth(
        peer: Peers, hasty: AgentClient) -> None:
    there = peer(create_snapshot=Script(
        job(1, 'done', kind='create', consistency='crash-consistent')))
    guest = AgentGuest(hasty)
    assert guest.create('v1', 's1', 'f', 'try') == 'crash-consistent'
    assert there.calls == [('create_snapshot', {'request': {
        'disks': [{'volume_id': 'v1', 'snapshot_id': 's1', 'new_file': 'f'}],
        'quiesce': 'try', 'report': False, 'origin': ''}})]


@pytest.mark.parametrize('report', [False, True])
def test_jobs_are_reported_where_somebody_listens(
        peer: Peers, hasty: AgentClient, report: bool) -> None:
    done = job(1, 'done')
    one = peer(merge=Script(done), create_snapshot=Script(done))
    guest = AgentGuest(hasty, report=report)
    guest.merge(*MERGE)
    guest.create('v1', 's1', 'f', 'off')
    assert [args['request']['report'] for _, args in one.calls] == [report,
                                                                    report]


def test_a_done_job_is_reported_before_it_is_called_done(
        peer: Peers, hasty: AgentClient) -> None:
    done, told = job(1, 'done', unreported=True), job(1, 'done')
    there = peer(merge=Script(done), get_job=Script(done, told))
    AgentGuest(hasty, report=True).merge(*MERGE)
    assert names(there) == ['merge', 'get_job', 'get_job']


@pytest.mark.parametrize('answer', [DOWN, LOST])
def test_what_is_done_stays_done_unreported(
        peer: Peers, hasty: AgentClient, answer: Exception) -> None:
    there = peer(merge=Script(job(1, 'done', unreported=True)),
                 get_job=Script(answer))
    AgentGuest(hasty, report=True).merge(*MERGE)
    assert names(there) == ['merge', 'get_job']


def test_nobody_takes_the_report(peer: Peers, hasty: AgentClient,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('assisted_snapshots.rpcapi.guest._TAKEN', 0.1)
    done = job(1, 'done', unreported=True)
    there = peer(merge=Script(done), get_job=Script(*[done] * 9))
    AgentGuest(hasty, report=True).merge(*MERGE)
    assert 'get_job' in names(there)


def test_silent_submission_is_repeated(peer: Peers,
                                       hasty: AgentClient) -> None:
    there = peer(merge=Script(SILENCE, job(1, 'accepted')),
                 wait_job=Script(job(2, 'done')))
    AgentGuest(hasty).merge(*MERGE)
    assert names(there) == ['merge', 'merge', 'wait_job']
    assert there.calls[0] == there.calls[1]


def test_silence_in_mid_job_is_not_an_end(peer: Peers,
                                          hasty: AgentClient) -> None:
    there = peer(merge=Script(job(1, 'accepted')),
                 wait_job=Script(SILENCE, SILENCE, job(2, 'done')))
    AgentGuest(hasty).merge(*MERGE)
    assert names(there) == ['merge'] + ['wait_job'] * 3


def test_agent_that_lost_its_journal_is_told_again(
        peer: Peers, hasty: AgentClient) -> None:
    there = peer(merge=Script(job(1, 'accepted'), job(1, 'done')),
                 wait_job=Script(LOST))
    AgentGuest(hasty).merge(*MERGE)
    assert names(there) == ['merge', 'wait_job', 'merge']


def test_lost_job_may_be_what_keeps_the_disk_busy(
        peer: Peers, hasty: AgentClient) -> None:
    """So nobody knows, which is not the same as a refusal."""
    busy = errors.DiskBusy(domain='d', device='vda', job='pull')
    peer(merge=Script(job(1, 'accepted'), busy), wait_job=Script(LOST))
    with pytest.raises(errors.JobNotFound):
        AgentGuest(hasty).merge(*MERGE)


def test_agent_that_loses_every_job_is_given_up(
        peer: Peers, hasty: AgentClient) -> None:
    peer(merge=Script(job(1, 'accepted'), job(1, 'accepted')),
         wait_job=Script(LOST, LOST))
    with pytest.raises(errors.JobNotFound):
        AgentGuest(hasty).merge(*MERGE)


def test_refusal_is_final(peer: Peers, hasty: AgentClient) -> None:
    there = peer(merge=Script(DOWN))
    with pytest.raises(errors.HypervisorDown):
        AgentGuest(hasty).merge(*MERGE)
    assert names(there) == ['merge']


def test_refusal_after_silence_proves_nothing(peer: Peers,
                                              hasty: AgentClient) -> None:
    """The first submission may have got through, so it asks on."""
    there = peer(merge=Script(SILENCE, DOWN, job(1, 'done')))
    AgentGuest(hasty).merge(*MERGE)
    assert names(there) == ['merge'] * 3


def test_gives_up_when_patience_is_over(hasty: AgentClient) -> None:
    with pytest.raises(errors.PeerSilent):
        AgentGuest(hasty, patience=1.5).merge(*MERGE)


@pytest.mark.parametrize(('end', 'error', 'words'), [
    (job(2, 'failed', error='no space left', error_code='block-job-failed'),
     errors.JobFailed, 'no space left'),
    (job(2, 'aborted', note='asked to'), errors.JobAborted, 'asked to')])
def test_bad_end_is_an_error(
        peer: Peers, hasty: AgentClient, end: dict[str, Any],
        error: type[errors.AgentError], words: str) -> None:
    peer(merge=Script(job(1, 'accepted')), wait_job=Script(end))
    with pytest.raises(error, match=words) as caught:
        AgentGuest(hasty).merge(*MERGE)
    assert caught.value.kwargs.get('job_code', '') == end.get('error_code',
                                                              '')


def test_caller_names_the_error(peer: Peers, hasty: AgentClient) -> None:
    def refused(error: errors.AgentError) -> Exception:
        return OSError(f'{error.code}: {error}')
    peer(merge=Script(DOWN), get_chain=Script(DOWN, DOWN))
    guest = AgentGuest(hasty, error=refused)
    for question in (lambda: guest.merge(*MERGE), lambda: guest.chain('v1'),
                     lambda: guest.can_commit('v1')):
        with pytest.raises(OSError, match='hypervisor-down: libvirt at u'):
            question()


def test_chain(peer: Peers, hasty: AgentClient) -> None:
    layers = [{'name': 'a', 'format': 'raw'}, {'name': 'b', 'format': 'qcow2'}]
    live = {'volume_id': 'v1', 'layers': layers, 'can_commit': False,
            'remedy': 'a newer libvirt'}
    gone = errors.VolumeNotFound(host='h', volume_id='v1')
    peer(get_chain=Script(live, live, gone))
    guest = AgentGuest(hasty)
    assert guest.chain('v1') == ('a', 'b')
    assert guest.can_commit('v1') == (False, 'a newer libvirt')
    assert guest.chain('v1') is None


def test_chain_after_a_job_is_asked_for_again(
        peer: Peers, hasty: AgentClient) -> None:
    """Whoever asks has to know what has become of the job."""
    live = {'volume_id': 'v1', 'layers': [{'name': 'a', 'format': 'raw'}]}
    there = peer(merge=Script(job(1, 'done')),
                 get_chain=Script(SILENCE, DOWN, live))
    guest = AgentGuest(hasty)
    guest.merge(*MERGE)
    assert guest.chain('v1') == ('a',)
    assert names(there) == ['merge'] + ['get_chain'] * 3


def test_silence_does_not_mean_detached(hasty: AgentClient) -> None:
    with pytest.raises(errors.PeerSilent):
        AgentGuest(hasty).chain('v1')


EXTENDED = {'volume_id': 'v1', 'size': 512}
UNKNOWN = errors.OutcomeUnknown(call='c', device='vda', domain='g',
                                reason='r')


@pytest.mark.parametrize('lost', [SILENCE, UNKNOWN])
def test_extends_until_there_is_an_answer(peer: Peers, hasty: AgentClient,
                                          lost: object) -> None:
    """libvirt that is away is no refusal when it may have done it."""
    there = peer(extend=Script(lost, DOWN, EXTENDED))
    AgentGuest(hasty).extend('v1', 512)
    assert names(there) == ['extend'] * 3


def test_an_extension_that_is_refused_is_not_repeated(
        peer: Peers, hasty: AgentClient) -> None:
    there = peer(extend=Script(DOWN))
    with pytest.raises(errors.HypervisorDown):
        AgentGuest(hasty).extend('v1', 512)
    assert names(there) == ['extend']
