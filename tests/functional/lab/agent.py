# SPDX-License-Identifier: Apache-2.0
"""The agent as a process of its own, with a generated configuration."""

from __future__ import annotations

import configparser
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import tempfile
import types
from typing import TYPE_CHECKING

from tests.functional.lab import waiting

if TYPE_CHECKING:
    from assisted_snapshots.rpcapi.client import AgentClient

READY_DEADLINE = 60
STOP_DEADLINE = 60


class AgentEnded(AssertionError):
    """The agent ended although it should run."""

    message = 'the agent ended with status {status}; its log ends:\n{log}'

    def __init__(self, status: int, log: str) -> None:
        super().__init__(self.message.format(status=status, log=log))


class Agent:
    """One agent; not started by making it.

    Its journal stays over restarts.  ``options`` are those of its group
    ``[agent]``; a dot names another group: ``{'reports.topic': 'x'}``.
    They may be changed between two starts.

    :ivar log: what it logged, over all its starts.
    """

    def __init__(self, folder: Path, libvirt_uri: str, transport_url: str,
                 host: str = 'compute-1', **options: object) -> None:
        self.host = host
        self.folder = folder
        self.log = folder / 'agent.log'
        self.options = {
            'DEFAULT.transport_url': transport_url, 'DEFAULT.debug': True,
            'host': host, 'libvirt_uri': libvirt_uri,
            'state_dir': folder / 'state'} | options
        self._url = transport_url
        self._process: subprocess.Popen[bytes] | None = None
        (folder / 'state').mkdir(parents=True)

    def start(self, *, ready: bool = True) -> None:
        """Start it and wait until it says it is ready."""
        self.write_config()
        with NotifySocket() as notify, open(self.log, 'ab') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'assisted_snapshots.agent.cmd',
                 '--config-file', self.config],
                env=notify.environment(), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True)
            if ready:
                waiting.until(lambda: self._alive() and notify.ready(),
                              'the agent being ready', READY_DEADLINE, 0)

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / 'agent.conf'

    def write_config(self) -> None:
        """Write the configuration file from :attr:`options`."""
        parser = configparser.RawConfigParser(default_section='')
        for name, value in self.options.items():
            group, _, option = name.rpartition('.')
            group = group or 'agent'
            if not parser.has_section(group):
                parser.add_section(group)
            parser.set(group, option, str(value))
        with open(self.config, 'w') as file:
            parser.write(file)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, 'the agent was not started'
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        self.wait()

    def reload(self) -> None:
        """Write the configuration again and send SIGHUP."""
        self.write_config()
        self.signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None, 'the agent was not started'
        self._process.send_signal(number)

    def wait(self, seconds: float = STOP_DEADLINE) -> int:
        """Wait until it has ended by itself; its exit status."""
        assert self._process is not None, 'the agent was not started'
        return self._process.wait(seconds)

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f'/proc/{self.pid}/status').read_text().splitlines():
            if line.startswith('VmRSS:'):
                return int(line.split()[1]) * 1024
        raise AgentEnded(self.wait(), self.log.read_text()[-2000:])

    def client(self, timeout: float = 10) -> AgentClient:
        """A client of this agent."""
        # Late: whoever uses the laboratory chooses oslo.service's backend.
        from assisted_snapshots.rpcapi import transport
        from assisted_snapshots.rpcapi.client import AgentClient
        return AgentClient(transport.make(url=self._url), self.host, timeout)

    def _alive(self) -> bool:
        if not self.running:
            raise AgentEnded(self.wait(),
                             self.log.read_text(errors='replace')[-2000:])
        return True


class NotifySocket:
    """Plays systemd's part: hears READY=1."""

    def __enter__(self) -> NotifySocket:
        self._folder = tempfile.TemporaryDirectory(prefix='lab-notify-')
        self._path = f'{self._folder.name}/socket'
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        self._socket.settimeout(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 trace: types.TracebackType | None) -> None:
        self._socket.close()
        self._folder.cleanup()

    def environment(self) -> dict[str, str]:
        """Environment for the process that is to be heard."""
        return dict(os.environ, NOTIFY_SOCKET=self._path)

    def ready(self) -> bool:
        """Whether it said so by now; waits a moment."""
        try:
            return b'READY=1' in self._socket.recv(4096).split(b'\n')
        except TimeoutError:
            return False
