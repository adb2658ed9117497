# SPDX-License-Identifier: Apache-2.0
"""The processes of a cloud.

Each carries a mark in its environment that names the cloud's folder, and
its children inherit it.  By that mark, and by nothing else, what a killed
cloud left behind is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import os
from pathlib import Path
import signal
import subprocess

from tests.cloud.lab.settings import PROGRAMS
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.settings import VENV
from tests.functional.lab import waiting

MARK = 'ASSISTED_SNAPSHOTS_CLOUD'
#: A service that does not stop within this is killed.
PATIENCE = 20


class ProcessFailed(AssertionError):
    """A process ended that should not, or ended badly."""

    message = '{name} ended with status {status}; {log} ends:\n{tail}'

    def __init__(self, name: str, status: int, log: Path) -> None:
        tail = log.read_text(errors='replace')[-2000:]
        super().__init__(self.message.format(name=name, status=status,
                                             log=log, tail=tail))


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Environment of every process of the cloud."""
    path = [PROGRAMS, VENV / 'bin', os.environ['PATH'], '/usr/sbin', '/sbin']
    # Nova's masters would write their title over the mark.
    return os.environ | {
        'PATH': ':'.join(map(str, path)), MARK: str(settings.folder),
        'SPT_NOENV': '1',
        'PYTHONUNBUFFERED': '1', 'PYTHONWARNINGS': 'ignore'} | more


class Process:
    """One service; not started by making it.

    :param enter: words that come before the command, to run it elsewhere.
    """

    def __init__(self, settings: Settings, name: str,
                 command: Sequence[str | Path], *,
                 enter: Sequence[str] = (),
                 variables: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = settings.log / f'{name}.log'
        self._command = [*enter, *map(str, command)]
        self._environment = environment(settings, **variables or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id, which is also its session's."""
        assert self._process is not None, f'{self.name} was not started'
        return self._process.pid

    def start(self) -> None:
        """Start it; its output goes to its log."""
        with open(self.log, 'ab') as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True)

    def run(self) -> None:
        """Start it and wait for its good end.

        :raises ProcessFailed: its end was not good.
        """
        self.start()
        self.finish()

    def finish(self) -> None:
        """Wait for its good end.

        :raises ProcessFailed: its end was not good.
        """
        assert self._process is not None, f'{self.name} was not started'
        status = self._process.wait()
        if status:
            raise ProcessFailed(self.name, status, self.log)

    def alive(self) -> bool:
        """True.

        :raises ProcessFailed: it has ended.
        """
        if not self.running:
            assert self._process is not None, f'{self.name} was not started'
            raise ProcessFailed(self.name, self._process.wait(), self.log)
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to what it forked."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        if self.running:
            self.signal(signal.SIGKILL)
        self._reap()

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        if self.running:
            self.signal(signal.SIGTERM)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        self.ask_to_stop()
        if self._process is not None:
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()


def marked(folder: Path) -> list[int]:
    """Processes that belong to the cloud in this folder."""
    found = []
    for entry in Path('/proc').iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                variables = (entry / 'environ').read_bytes().split(b'\0')
                program, *words = (
                    entry / 'cmdline').read_bytes().split(b'\0')
            except OSError:
                continue
            # libvirt starts QEMU with an environment of its own making.
            if (f'{MARK}={folder}'.encode() in variables
                    or b'qemu' in program and any(
                        f'{folder}/'.encode() in word for word in words)):
                found.append(int(entry.name))
    return found


def clear(folder: Path) -> None:
    """Kill what a killed cloud left."""
    for pid in marked(folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    waiting.until(lambda: not marked(folder), 'end of the old cloud', 30)
