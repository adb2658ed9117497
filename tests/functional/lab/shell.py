# SPDX-License-Identifier: Apache-2.0
"""Commands in a running guest, through its guest agent."""

from __future__ import annotations

import abc
import base64
import json
from typing import Any
from typing import Protocol

import libvirt
import libvirt_qemu

from tests.functional.lab import waiting

AGENT_TIMEOUT = 30
#: A question that went astray is soon asked again.
PING_TIMEOUT = 2


class GuestError(AssertionError):
    """A command in the guest failed."""

    message = '{command} exited with {status}: {output}'

    def __init__(self, command: str, status: int, output: str) -> None:
        super().__init__(self.message.format(
            command=command, status=status, output=output))


class Hypervisor(Protocol):
    """What is needed of a libvirtd."""

    @property
    def pid(self) -> int:
        """Changes when it is started again."""

    @property
    def connection(self) -> libvirt.virConnect:
        """A connection that is alive."""


class Shell(abc.ABC):
    """A guest in which commands can be run."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._served_by = 0

    @property
    @abc.abstractmethod
    def domain(self) -> libvirt.virDomain:
        """The libvirt domain, through a connection that is alive."""

    @abc.abstractmethod
    def booted(self) -> bool:
        """Whether the guest has said that its agent runs."""

    def wait_answers(self, what: str, seconds: float) -> None:
        """Wait until the guest agent answers."""
        waiting.until(self._agent_answers, what, seconds, 0.05)
        self._served_by = self._hypervisor.pid

    def agent(self, command: str, **arguments: Any) -> Any:
        """One command of the guest agent."""
        if self._served_by != self._hypervisor.pid:
            # A new libvirtd needs a moment to find the guest's agent.
            self.wait_answers(f'answer to {command}', AGENT_TIMEOUT)
        return self._ask(command, AGENT_TIMEOUT, **arguments)

    def run(self, command: str) -> str:
        """Run a shell command in the guest; what it printed.

        :raises GuestError: it failed.
        """
        process = self.agent('guest-exec', path='/bin/sh',
                             arg=['-c', f'{command} 2>&1'],
                             **{'capture-output': True})['pid']

        def ended() -> Any:
            status = self.agent('guest-exec-status', pid=process)
            return status if status['exited'] else None
        status = waiting.until(ended, command, 60, 0.01)
        output = base64.b64decode(status.get('out-data', '')).decode()
        if status.get('exitcode') != 0:
            raise GuestError(command, status.get('exitcode', -1), output)
        return output

    def _ask(self, command: str, timeout: int, **arguments: Any) -> Any:
        text = json.dumps({'execute': command, 'arguments': arguments})
        answer = libvirt_qemu.qemuAgentCommand(self.domain, text, timeout, 0)
        return json.loads(answer)['return']

    def _agent_answers(self) -> bool:
        # Asked too early, libvirt waits seconds for the answer.
        if not self.booted():
            return False
        try:
            self._ask('guest-ping', PING_TIMEOUT)
        except libvirt.libvirtError:
            return False
        return True
