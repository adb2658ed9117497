# SPDX-License-Identifier: Apache-2.0
"""The client of one host's agent: typed messages in, typed messages out.

It never repeats a request by itself; :mod:`.guest` shows how that is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import oslo_messaging as messaging

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import messages
from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi.transport import Caller

_T = TypeVar('_T')

# The longest an agent holds back the answer to wait_job, in seconds.
MAX_WAIT = 30.0


class AgentClient:
    """Asks the agent on one host; any thread may use it.

    Every method raises an :class:`~.errors.AgentError`: what the agent
    refused as the class it raised, silence as ``PeerSilent``, an unreachable
    broker as ``BrokerUnreachable``, another version as ``NotUnderstood``.

    :param host: the agent's ``host`` option.
    :param timeout: seconds to wait for an answer.
    """

    def __init__(self, transport: messaging.RPCTransport, host: str,
                 timeout: float = 10.0) -> None:
        self.host = host
        self._caller = Caller(transport, target.agent(host), timeout)

    def ping(self) -> messages.AgentInfo:
        """Ask the agent about itself."""
        return self._ask(messages.AgentInfo.from_wire, 'ping')

    def create_snapshot(self, request: messages.CreateRequest
                        ) -> messages.Job:
        """Submit a snapshot; asked again, the first job is returned."""
        return self._ask(messages.Job.from_wire, 'create_snapshot',
                         request=request.to_wire())

    def merge(self, request: messages.MergeRequest) -> messages.Job:
        """Submit a merge; asked again, the first job is returned."""
        return self._ask(messages.Job.from_wire, 'merge',
                         request=request.to_wire())

    def get_job(self, job_id: str) -> messages.Job:
        """Return a job as it is now."""
        return self._ask(messages.Job.from_wire, 'get_job', job_id=job_id)

    def list_jobs(self, volume_id: str | None = None,
                  unfinished: bool = False) -> tuple[messages.Job, ...]:
        """Return jobs, the newest last.

        :param volume_id: only those of this volume.
        :param unfinished: only those that have not ended.
        """
        return self._ask(_jobs, 'list_jobs', volume_id=volume_id,
                         unfinished=unfinished)

    def wait_job(self, job_id: str, revision: int,
                 seconds: float = MAX_WAIT) -> messages.Job:
        """Return a job once it is newer than ``revision`` or has ended.

        The answer may come earlier, with the job as it was: when ``seconds``
        are over, when the agent stops, or when too many are waiting.
        """
        seconds = min(seconds, MAX_WAIT)
        return self._ask(messages.Job.from_wire, 'wait_job', wait=seconds,
                         job_id=job_id, revision=revision, seconds=seconds)

    def set_bandwidth(self, job_id: str, bandwidth: int) -> messages.Job:
        """Limit a job to so many bytes per second; 0 removes the limit."""
        return self._ask(messages.Job.from_wire, 'set_bandwidth',
                         job_id=job_id, bandwidth=bandwidth)

    def pause_job(self, job_id: str) -> messages.Job:
        """Let a job rest; it stays in place."""
        return self._ask(messages.Job.from_wire, 'pause_job', job_id=job_id)

    def resume_job(self, job_id: str) -> messages.Job:
        """Let a paused job go on."""
        return self._ask(messages.Job.from_wire, 'resume_job', job_id=job_id)

    def abort_job(self, job_id: str) -> messages.Job:
        """Give a job up; the chain stays as it was before the job."""
        return self._ask(messages.Job.from_wire, 'abort_job', job_id=job_id)

    def get_chain(self, volume_id: str) -> messages.LiveChain:
        """Return the live chain of a volume attached on this host."""
        return self._ask(messages.LiveChain.from_wire, 'get_chain',
                         volume_id=volume_id)

    def extend(self, volume_id: str, size: int) -> messages.Extended:
        """Let an attached volume grow; returns when the guest sees it.

        Asked again, nothing is left to do.  An agent older than 1.1 answers
        ``NotUnderstood``.

        :param size: in bytes, a multiple of 512.
        """
        return self._ask(messages.Extended.from_wire, 'extend',
                         since='1.1', volume_id=volume_id, size=size)

    def _ask(self, read: Callable[[object], _T], method: str,
             wait: float = 0.0, since: str = '', **args: object) -> _T:
        answer = self._caller.call(method, args, seconds=wait, version=since)
        try:
            return read(answer)
        except errors.InvalidRequest as exc:
            raise errors.NotUnderstood(
                host=self.host, method=method, version=target.VERSION,
                reason=str(exc)) from exc


def _jobs(wire: object) -> tuple[messages.Job, ...]:
    found = wire.get('jobs') if isinstance(wire, dict) else None
    if not isinstance(found, list):
        raise errors.InvalidRequest(field='jobs', reason='is not a list')
    return tuple(messages.Job.from_wire(job) for job in found)
