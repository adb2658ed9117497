# SPDX-License-Identifier: Apache-2.0
"""The agent as a service: start, readiness, reload, stop, and bad options.

All of it under both backends of oslo.service, where that could matter.
libvirtd is away throughout: the agent must stand that.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import messages
from tests.functional.lab import ports
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.rabbit import Rabbit

BACKENDS = ('threading', 'eventlet')
CREATE = messages.CreateRequest(
    (messages.SnapshotDisk('v1', 's1', 'volume-v1.s1'),))
MERGE = messages.MergeRequest(messages.Kind.DELETE, 'v1', 's1', ('a', 'b'),
                              ('a', 'b'), 'a')


class Systemd:
    """Starts an agent and hears what it says of itself."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix='lab-notify-')
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._path = f'{self._folder.name}/socket'
        self._socket.bind(self._path)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, agent: Agent) -> None:
        agent.write_config()
        with open(agent.log, 'ab') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'assisted_snapshots.agent.cmd',
                 '--config-file', agent.config], stdout=log, stderr=log,
                env=dict(os.environ, NOTIFY_SOCKET=self._path))

    def says(self, state: str, seconds: float = 60) -> bool:
        """Whether the next message has that state."""
        self._socket.settimeout(seconds)
        try:
            return state in self._socket.recv(4096).decode().split('\n')
        except TimeoutError:
            return False

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._socket.close()
        self._folder.cleanup()


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    made = Systemd()
    yield made
    made.close()


@pytest.fixture(params=BACKENDS)
def agent(request: pytest.FixtureRequest, lonely: Agent) -> Agent:
    """An agent without libvirtd, under each backend; not started."""
    lonely.options['DEFAULT.concurrency_backend'] = request.param
    return lonely


def test_answers_without_libvirtd(agent: Agent) -> None:
    agent.start()
    client = agent.client()
    info = client.ping()
    assert (info.host, info.rpc_version) == (agent.host, '1.1')
    assert 'libvirt' in info.problem
    for submit in (lambda: client.create_snapshot(CREATE),
                   lambda: client.merge(MERGE),
                   lambda: client.get_chain('v1'),
                   lambda: client.extend('v1', 512)):
        with pytest.raises(errors.HypervisorDown):
            submit()
    assert client.list_jobs() == ()
    with pytest.raises(errors.JobNotFound):
        client.wait_job('j1', 0)
    assert agent.terminate() == 0


def test_hostile_requests_are_refused_by_name(lonely: Agent) -> None:
    lonely.start()
    client = lonely.client()
    with pytest.raises(errors.InvalidRequest, match='job_id'):
        client.get_job('../etc')
    with pytest.raises(errors.InvalidRequest, match='bandwidth'):
        client.set_bandwidth('j1', -1)
    with pytest.raises(errors.InvalidRequest, match='seconds'):
        client.wait_job('j1', 0, -1)


def test_ready_means_that_requests_are_taken(
        agent: Agent, rabbit: Rabbit, systemd: Systemd) -> None:
    rabbit.terminate()
    systemd.start(agent)
    assert systemd.says('STATUS=Waiting for the message broker')
    assert not systemd.says('READY=1', 3)
    rabbit.start()
    assert systemd.says('READY=1')
    assert agent.client().ping().host == agent.host
    assert systemd.stop() == 0
    assert systemd.says('STOPPING=1')


def test_stops_while_the_broker_was_never_there(
        agent: Agent, systemd: Systemd) -> None:
    port = ports.free(1)[0]
    agent.options['DEFAULT.transport_url'] = f'rabbit://127.0.0.1:{port}/'
    systemd.start(agent)
    assert systemd.says('STATUS=Waiting for the message broker')
    assert systemd.stop() == 0


def test_stops_while_the_broker_is_away(agent: Agent,
                                        rabbit: Rabbit) -> None:
    agent.start()
    rabbit.kill()
    assert agent.terminate() == 0


def test_wrong_password_is_waited_for(agent: Agent, rabbit: Rabbit,
                                      systemd: Systemd) -> None:
    """Somebody may be about to set it in the broker."""
    user = f'user-{agent.host}'
    agent.options['DEFAULT.transport_url'] = rabbit.url.replace(
        'guest:guest', f'{user}:secret')
    systemd.start(agent)
    assert systemd.says('STATUS=Waiting for the message broker')
    waiting.until(lambda: 'Cannot listen for requests' in
                  agent.log.read_text(), 'the agent complaining')
    rabbit.control('add_user', user, 'secret')
    rabbit.control('set_permissions', user, '.*', '.*', '.*')
    assert systemd.says('READY=1')


@pytest.mark.parametrize(('agent', 'end'), [
    ('threading', 'kill'), ('eventlet', 'terminate')], indirect=['agent'])
def test_broker_comes_back(agent: Agent, rabbit: Rabbit, end: str) -> None:
    agent.start()
    client = agent.client(timeout=2)
    client.ping()
    getattr(rabbit, end)()
    with pytest.raises((errors.BrokerUnreachable, errors.PeerSilent)):
        client.ping()
    rabbit.start()

    def answers() -> bool:
        try:
            return client.ping().host == agent.host
        except (errors.BrokerUnreachable, errors.PeerSilent):
            return False
    waiting.until(answers, 'an answer after the restart')


def test_reload_takes_effect_without_a_restart(agent: Agent) -> None:
    agent.options['DEFAULT.debug'] = False
    agent.start()
    client = agent.client()

    def logs_debug() -> bool:
        before = len(agent.log.read_text())
        client.ping()
        return 'DEBUG' in agent.log.read_text()[before:]
    assert not logs_debug()
    agent.options['DEFAULT.debug'] = True
    agent.reload()
    waiting.until(logs_debug, 'logging at debug')
    agent.options['DEFAULT.debug'] = False
    agent.reload()
    waiting.until(lambda: not logs_debug(), 'logging less again')
    assert agent.terminate() == 0


@pytest.mark.parametrize('broken', ['[agent', '[agent]\nbandwidth = fast\n'])
def test_reload_of_nonsense_is_survived(agent: Agent, broken: str) -> None:
    agent.start()
    client = agent.client()
    good = agent.config.read_text()
    agent.config.write_text(broken if broken == '[agent' else good.replace(
        '[agent]\n', broken))
    agent.signal(signal.SIGHUP)
    waiting.until(lambda: 'are left as they were' in agent.log.read_text(),
                  'the agent complaining')
    assert client.ping().host == agent.host
    agent.config.write_text(good)
    agent.signal(signal.SIGHUP)
    assert agent.terminate() == 0


def test_options_are_logged_and_secrets_are_not(agent: Agent) -> None:
    agent.start()
    log = agent.log.read_text()
    assert 'agent.state_dir' in log
    assert 'transport_url' in log
    assert 'guest:guest' not in log


def test_is_one_process(agent: Agent) -> None:
    """Nothing outlives a SIGKILL; the thaw guard comes with a freeze."""
    agent.start()
    children = Path(f'/proc/{agent.pid}/task/{agent.pid}/children')
    assert children.read_text() == ''


def run(agent: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'assisted_snapshots.agent.cmd', *arguments],
        check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(('options', 'words'), [
    ({'bandwidth': 'fast'}, 'bandwidth'),
    ({'poll_interval': '0'}, 'poll_interval'),
    ({'DEFAULT.concurrency_backend': 'fibres'}, 'concurrency_backend'),
    ({'DEFAULT.transport_url': 'pigeon://x/'}, 'pigeon'),
    ({'DEFAULT.transport_url': 'no url'}, 'url'),
    ({'state_dir': '/proc/nowhere'}, '/proc/nowhere'),
    ({'DEFAULT.log_config_append': '/nowhere'}, '/nowhere'),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_wrong_options_end_in_a_sentence(
        lonely: Agent, options: dict[str, str], words: str) -> None:
    lonely.options |= options
    lonely.write_config()
    done = run(lonely, '--config-file', str(lonely.config))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('assisted-snapshot-agent: ')
    assert words in last
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('spoil', [
    lambda agent: agent.config.unlink(),
    lambda agent: agent.config.write_text('[agent\n'),
], ids=['missing', 'unreadable'])
def test_wrong_file_ends_in_a_sentence(
        lonely: Agent, spoil: Callable[[Agent], None]) -> None:
    lonely.write_config()
    spoil(lonely)
    done = run(lonely, '--config-file', str(lonely.config))
    assert done.returncode == 2
    assert str(lonely.config) in done.stderr
    assert 'Traceback' not in done.stderr


def test_wrong_argument(lonely: Agent) -> None:
    done = run(lonely, '--frobnicate')
    assert done.returncode == 2
    assert '--frobnicate' in done.stderr


def test_two_agents_with_one_journal(lonely: Agent) -> None:
    lonely.start()
    done = run(lonely, '--config-file', str(lonely.config))
    assert done.returncode == 2
    assert 'belongs to another running agent' in done.stderr
