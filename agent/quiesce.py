# SPDX-License-Identifier: Apache-2.0
"""Freezing a guest's file systems around a snapshot, and never for long.

Three things thaw a guest: this code after the snapshot; the guard process
(:mod:`.thaw_guard`) when the deadline has passed or the agent has died; and
the next agent process, from the journal's marker.  What a snapshot is worth
is known only afterwards: it is consistent if the thaw found the file systems
still frozen.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from assisted_snapshots.rpcapi import errors

if TYPE_CHECKING:
    from assisted_snapshots.agent.hypervisor import Hypervisor

LOG = logging.getLogger(__name__)

_RETRY = 0.5
_PARTING = 2.0


class GuardLost(errors.AgentError):
    """The guard process cannot be reached; nothing may be frozen."""

    message = 'the thaw guard cannot be used: {reason}'


class Guard:
    """The guard process as seen from the agent; one command at a time.

    Started with the first guest to be frozen and kept from then on: an agent
    that freezes nothing does not carry the memory of a second process.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'assisted_snapshots.agent.thaw_guard',
                 self._uri],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                start_new_session=True)
            self._expect = ['ready']
        return self._process

    def stop(self) -> None:
        """Let the process end; it thaws what is still armed."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.stdin and process.stdout:
            process.stdin.close()
            process.stdout.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PARTING)  # it may have a guest to thaw

    def arm(self, uuid: str, seconds: float) -> None:
        """Have a guest thawed after so many seconds."""
        self._tell('arm', uuid, str(seconds))

    def disarm(self, uuid: str) -> None:
        """The guest is thawed."""
        self._tell('disarm', uuid)

    def _tell(self, *words: str) -> None:
        with self._lock:
            try:
                process = self._start()
                if process.stdin is None or process.stdout is None:
                    raise OSError('no pipe')
                process.stdin.write(' '.join(words) + '\n')
                process.stdin.flush()
                for word in [*self._expect, words[0]]:
                    if process.stdout.readline().strip() != word:
                        raise OSError('it ended')
                self._expect = []
            except OSError as e:
                raise GuardLost(reason=e) from e


class Freeze:
    """One guest's freeze, from arming the guard to the thaw.

    :param seconds: the longest it may last.
    :param stopping: set when the agent is being stopped.
    """

    def __init__(self, hypervisor: Hypervisor, guard: Guard, uuid: str,
                 seconds: float, stopping: threading.Event) -> None:
        self._hypervisor = hypervisor
        self._guard = guard
        self._uuid = uuid
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._stopping = stopping
        self._armed = False
        self._froze = False

    def freeze(self) -> str:
        """Freeze; returns why it did not work, empty if it did.

        :meth:`thaw` must be called in any case: a guest that did not answer
        in time may freeze later.
        """
        try:
            self._guard.arm(self._uuid, self._seconds)
            self._armed = True
            count = self._hypervisor.freeze(self._uuid, self._seconds)
        except errors.AgentError as e:
            return str(e)
        self._froze = True
        return '' if count else 'the guest has no file system to freeze'

    @property
    def overdue(self) -> bool:
        """True where the guard may be thawing already."""
        return time.monotonic() >= self._deadline

    def thaw(self) -> int | None:
        """Thaw; returns how many were frozen until now.

        None where the guest could not be thawed until the deadline; the
        guard goes on trying.
        """
        if not self._armed:
            return 0
        thawed = self._until_thawed()
        if thawed is not None:
            try:
                self._guard.disarm(self._uuid)
            except GuardLost as e:
                LOG.warning('%s', e)
        return thawed

    def _until_thawed(self) -> int | None:
        while True:
            try:
                return self._hypervisor.thaw(self._uuid)
            except errors.GuestState:
                return 0
            except errors.AgentError as e:
                LOG.warning('guest %s is not thawed yet: %s', self._uuid, e)
            # A guest that did not answer the freeze is left to the guard.
            if not self._froze or self.overdue \
                    or self._stopping.wait(_RETRY):
                return None


def thaw_left_over(hypervisor: Hypervisor, uuid: str) -> None:
    """Thaw what an earlier attempt may have left frozen."""
    try:
        count = hypervisor.thaw(uuid)
    except errors.HypervisorDown:
        raise
    except errors.AgentError as e:
        LOG.warning('guest %s, left frozen perhaps: %s', uuid, e)
        return
    if count:
        LOG.warning('guest %s had been left frozen; %d file systems thawed',
                    uuid, count)
