# SPDX-License-Identifier: Apache-2.0
"""Jobs, seen and steered over oslo.messaging's in-memory bus.

The other side is a stand-in that says what a test wants; the real agent is
in tests/functional.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import AgentInfo
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import LiveChain
from assisted_snapshots.rpcapi.messages import LiveLayer
from assisted_snapshots.rpcapi.messages import State
from tests.functional.rpc.peer import Peer
from tests.unit.cli.conftest import Run
from tests.unit.cli.conftest import Share

MIB = 1 << 20
Make = Callable[..., Peer]

METHODS = ('ping', 'create_snapshot', 'merge', 'get_job', 'list_jobs',
           'wait_job', 'set_bandwidth', 'pause_job', 'resume_job',
           'abort_job', 'get_chain')


class Answers(dict[str, Callable[..., Any]]):
    """What the stand-in answers now."""

    def method(self, name: str) -> Callable[..., Any]:
        def answer(**args: Any) -> Any:
            return self[name](**args)
        return answer


@pytest.fixture(scope='module')
def bus() -> Iterator[tuple[Peer, Answers]]:
    """One stand-in for all tests: to stop one takes a second."""
    answers = Answers()
    methods: dict[str, Any] = {name: answers.method(name)
                               for name in METHODS}
    peer = Peer('fake://', 'host-1', **methods)
    peer.start()
    yield peer, answers
    peer.close()


@pytest.fixture
def agent(bus: tuple[Peer, Answers], monkeypatch: pytest.MonkeyPatch,
          run: Run) -> Make:
    """Gives the agent its methods; the command knows of it."""
    monkeypatch.setenv('ASSISTED_SNAPSHOT_TRANSPORT_URL', 'fake://')
    monkeypatch.setenv('ASSISTED_SNAPSHOT_HOST', 'host-1')
    peer, answers = bus

    def make(**methods: Callable[..., Any]) -> Peer:
        peer.calls.clear()
        answers.clear()
        answers.update(methods)
        return peer
    return make


def job(state: State = State.RUNNING, **more: Any) -> Job:
    return Job('j1', Kind.DELETE, ('1',), ('s1',), 'guest', state,
               method='commit', created=1.0, updated=3.5,
               **{'done_bytes': MIB, 'total_bytes': 4 * MIB} | more)


def raiser(error: Exception) -> Callable[..., Any]:
    def answer(**_args: Any) -> Any:
        raise error
    return answer


def test_list(run: Run, agent: Make) -> None:
    peer = agent(list_jobs=lambda **_: {'jobs': [job().to_wire()]})
    document, = run('job', 'list', 'volume-1', '-f', 'json').json
    assert document == {
        'id': 'j1', 'kind': 'delete', 'volumes': '1', 'subjects': 's1',
        'state': 'running', 'method': 'commit', 'done_bytes': MIB,
        'total_bytes': 4 * MIB, 'note': ''}
    assert '1.0 MiB' in run('job', 'list', '--all').out
    assert [args for _, args in peer.calls] == [
        {'volume_id': '1', 'unfinished': True},
        {'volume_id': None, 'unfinished': False}]


def test_show(run: Run, agent: Make) -> None:
    agent(get_job=lambda **_: job(State.FAILED, error='it broke',
                                  error_code='block-job-failed').to_wire())
    document = run('job', 'show', 'j1', '-f', 'json').json
    assert document['state'] == 'failed'
    assert document['volumes'] == ['1']
    assert document['done_bytes'] == MIB
    text = run('job', 'show', 'j1').out
    assert 'does     delete of s1\n' in text
    assert 'progress 1.0 MiB of 4.0 MiB\n' in text
    assert 'took     2.50 s\n' in text
    assert 'error    it broke\n' in text


@pytest.mark.parametrize(('command', 'method', 'args'), [
    ('pause', 'pause_job', {}), ('resume', 'resume_job', {}),
    ('abort', 'abort_job', {}),
    ('bandwidth', 'set_bandwidth', {'bandwidth': 8 * MIB})])
def test_steering(run: Run, agent: Make, command: str, method: str,
                  args: dict[str, int]) -> None:
    peer = agent(**{method: lambda **_: job().to_wire()})
    more = ('8M',) if args else ()
    assert run('job', command, 'j1', *more).status == 0
    assert peer.calls == [(method, {'job_id': 'j1', **args})]


@pytest.mark.parametrize(('end', 'status'), [
    (State.DONE, 0), (State.FAILED, 1), (State.ABORTED, 1)])
def test_watch(run: Run, agent: Make, end: State, status: int) -> None:
    states = iter([job(revision=2, done_bytes=2 * MIB),
                   job(State.PIVOTING, revision=3),
                   job(end, revision=4, done_bytes=4 * MIB)])
    peer = agent(get_job=lambda **_: job(revision=1).to_wire(),
                 wait_job=lambda **_: next(states).to_wire())
    done = run('job', 'watch', 'j1')
    assert done.status == status
    assert [args['revision'] for method, args in peer.calls
            if method == 'wait_job'] == [1, 2, 3]
    assert 'delete s1:  50 % 2.0 MiB of 4.0 MiB' in done.err
    assert 'pivoting' in done.err
    assert f'state    {end}' in done.out


@pytest.mark.parametrize(('error', 'status'), [
    (errors.JobNotFound(job_id='j1', host='h'), 3),
    (errors.JobState(job_id='j1', state='done', reason='it has ended'), 3),
    (errors.InternalError(host='h', method='m', reason='r'), 1)])
def test_errors_of_the_agent(run: Run, agent: Make, error: errors.AgentError,
                             status: int) -> None:
    agent(get_job=raiser(error))
    done = run('job', 'show', 'j1')
    assert done.status == status
    assert done.out == ''
    assert done.err.count('\n') == 1
    assert 'Traceback' not in done.err


def test_ping_and_info(run: Run, agent: Make) -> None:
    info = AgentInfo('h', '1.2', '1.0', '11.3.0', '10.0.2')
    agent(ping=info.to_wire)
    done = run('agent', 'ping')
    assert (done.status, done.out) == (
        0, 'h: agent 1.2: libvirt 11.3.0, QEMU 10.0.2\n')
    assert run('agent', 'info', '-f', 'json').json == info.to_wire()
    assert 'libvirt      11.3.0\n' in run('agent', 'info').out


def test_ping_of_an_agent_that_cannot_work(run: Run, agent: Make) -> None:
    agent(ping=lambda: AgentInfo('h', '1', '1.0',
                                 problem='libvirtd is away').to_wire())
    done = run('agent', 'ping')
    assert (done.status, done.out) == (1, 'h: agent 1: libvirtd is away\n')


def test_a_chain_in_use(run: Run, chain: Share, agent: Make) -> None:
    names = ('volume-1', 'volume-1.a', 'volume-1.b', 'volume-1.c')
    live = LiveChain('1', 'guest-7', 'vdb', True,
                     tuple(LiveLayer(name, 'qcow2') for name in names))
    agent(get_chain=lambda **_: live.to_wire())
    assert 'in use by guest guest-7 (vdb) on host-' in run(
        'chain', 'show', '1').out
    found = run('chain', 'show', '1', '-f', 'json').json['attachment']
    assert (found['domain'], found['agrees']) == ('guest-7', True)
    assert run('plan', '1', 'c', '-f', 'json').json['attached'] is True
    done = run('snapshot', 'revert', '1', 'c')
    assert done.status == 3
    assert 'in use' in done.err


def test_a_snapshot_of_a_guest(run: Run, chain: Share, agent: Make) -> None:
    """The command makes the overlay; the agent moves the guest onto it."""
    layers = ['volume-1', 'volume-1.a', 'volume-1.b', 'volume-1.c']

    def get_chain(**_: Any) -> Any:
        return LiveChain('1', 'guest-7', 'vdb', True, tuple(
            LiveLayer(name, 'qcow2') for name in layers)).to_wire()

    def create_snapshot(request: Any) -> Any:
        layers.append(request['disks'][0]['new_file'])
        return Job('j1', Kind.CREATE, ('1',), ('d',), 'guest-7', State.DONE,
                   consistency='filesystem-consistent').to_wire()

    peer = agent(get_chain=get_chain, create_snapshot=create_snapshot)
    done = run('snapshot', 'create', '1', 'd', '--quiesce', 'require', '-f',
               'json')
    assert done.status == 0, done.err
    assert done.json['consistency'] == 'filesystem-consistent'
    assert chain.info()['active'] == 'volume-1.d'
    request, = (args['request'] for method, args in peer.calls
                if method == 'create_snapshot')
    assert request['quiesce'] == 'require'


def test_a_refused_delete_changes_nothing(run: Run, chain: Share,
                                          agent: Make) -> None:
    names = ('volume-1', 'volume-1.a', 'volume-1.b', 'volume-1.c')
    live = LiveChain('1', 'guest-7', 'vdb', True,
                     tuple(LiveLayer(name, 'qcow2') for name in names))
    peer = agent(get_chain=lambda **_: live.to_wire(), merge=raiser(
        errors.DiskBusy(device='vdb', domain='guest-7', job='a backup')))
    before = chain.info()
    done = run('snapshot', 'delete', '1', 'b', '--bandwidth', '2M')
    assert done.status == 3
    assert 'already has a job: a backup' in done.err
    assert chain.info() == before
    request, = (args['request'] for method, args in peer.calls
                if method == 'merge')
    assert request['bandwidth'] == 2 * MIB
    assert run('chain', 'check', '1').status == 0


def test_a_failed_delete_can_be_repeated(run: Run, chain: Share,
                                         agent: Make) -> None:
    names = ('volume-1', 'volume-1.a', 'volume-1.b', 'volume-1.c')
    live = LiveChain('1', 'guest-7', 'vdb', True,
                     tuple(LiveLayer(name, 'qcow2') for name in names))
    failed = job(State.FAILED, error='no space', error_code='not-durable')
    agent(get_chain=lambda **_: live.to_wire(),
          merge=lambda **_: failed.to_wire())
    done = run('snapshot', 'delete', '1', 'b')
    assert done.status == 1
    assert 'no space' in done.err
    assert (chain.folder / 'volume-1.b').exists()


@pytest.mark.slow
def test_the_chain_is_shown_though_the_bus_is_away(
        run: Run, chain: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ASSISTED_SNAPSHOT_TRANSPORT_URL',
                       'rabbit://guest:guest@127.0.0.1:1/')
    done = run('chain', 'show', '1')
    assert done.status == 0
    assert done.err.startswith('warning: the message broker cannot be reach')
    done = run('snapshot', 'delete', '1', 'b')
    assert done.status == 1
    assert (chain.folder / 'volume-1.b').exists()


def live_base(form: str) -> Callable[..., Any]:
    found = LiveChain('1', 'guest-7', 'vdb', True,
                      (LiveLayer('volume-1', form),))
    return lambda **_: found.to_wire()


def test_the_guest_knows_the_format_of_its_base(
        run: Run, share: Share, agent: Make) -> None:
    share.volume()
    agent(get_chain=live_base('raw'))
    layer, = run('chain', 'show', '1', '-f', 'json').json['layers']
    assert layer['format'] == 'raw'


def test_a_format_that_the_guest_denies_is_not_pinned(
        run: Run, share: Share, agent: Make) -> None:
    share.volume()
    before = share.files()
    agent(get_chain=live_base('qcow2'))
    done = run('--base-format', 'raw', 'snapshot', 'create', '1', 'a')
    assert done.status == 3
    assert 'the guest says qcow2, but raw is pinned' in done.err
    assert share.files() == before
