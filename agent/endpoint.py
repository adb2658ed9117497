# SPDX-License-Identifier: Apache-2.0
"""The RPC methods: checks what came in, asks the core, answers.

Only what is marked with ``_method`` can be called from outside, and nothing
but errors of :mod:`assisted_snapshots.rpcapi.errors` leaves it.  No method
waits for work to be done, save :meth:`Endpoint.wait_job`, whose number is
limited so that waiting clients cannot keep others out, and
:meth:`Endpoint.extend`, for which libvirt needs a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import functools
import inspect
import logging
import threading
import time
from typing import Any
from typing import TypeVar

import oslo_messaging as messaging

from assisted_snapshots.agent.core import Agent
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi.client import MAX_WAIT
from assisted_snapshots.rpcapi.messages import check_flag
from assisted_snapshots.rpcapi.messages import check_id
from assisted_snapshots.rpcapi.messages import check_number
from assisted_snapshots.rpcapi.messages import check_size
from assisted_snapshots.rpcapi.messages import check_time
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import Wire

LOG = logging.getLogger(__name__)

_F = TypeVar('_F', bound=Callable[..., Wire])

# A waiting client looks up so often whether the agent is being stopped.
_SLICE = 0.5


def _method(function: _F) -> _F:
    """Make a method callable from outside, and its errors typed."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def answer(self: Endpoint, _context: Mapping[str, object],
               **args: object) -> Wire:
        LOG.debug('%s %s', function.__name__, args)
        try:
            signature.bind(self, **args)
        except TypeError as exc:
            raise errors.InvalidRequest(field='arguments',
                                        reason=str(exc)) from None
        try:
            return function(self, **args)
        except errors.AgentError as exc:
            LOG.info('%s refused: %s', function.__name__, exc)
            raise
        except Exception as exc:
            LOG.exception('%s failed', function.__name__)
            raise errors.InternalError(
                host=self.host, method=function.__name__,
                reason=f'{type(exc).__name__}: {exc}') from exc

    expected: Any = messaging.expected_exceptions(errors.AgentError)(answer)
    return messaging.expose(expected)  # type: ignore[no-any-return]


class Endpoint:
    """What the agent can be asked, version 1.1."""

    target = messaging.Target(version=target.VERSION)

    def __init__(self, agent: Agent) -> None:
        self.host = agent.host
        self._agent = agent
        self._waiters = threading.Semaphore(1)
        self._closing = threading.Event()

    def allow(self, waiters: int) -> None:
        """Say how many may be in :meth:`wait_job` at a time, before use."""
        self._waiters = threading.Semaphore(max(1, waiters))

    def close(self) -> None:
        """Send waiting clients home with what is known."""
        self._closing.set()

    @_method
    def ping(self) -> Wire:
        """Tell who this is and whether it can work."""
        return self._agent.info().to_wire()

    @_method
    def create_snapshot(self, request: object) -> Wire:
        """Accept a snapshot."""
        job = self._agent.submit_create(CreateRequest.from_wire(request))
        LOG.info('job %s: %s of %s', job.id, job.kind, job.subjects)
        return job.to_wire()

    @_method
    def merge(self, request: object) -> Wire:
        """Accept a merge of layers."""
        job = self._agent.submit_merge(MergeRequest.from_wire(request))
        LOG.info('job %s: %s of %s', job.id, job.kind, job.subjects)
        return job.to_wire()

    @_method
    def get_job(self, job_id: object) -> Wire:
        """Return a job."""
        return self._agent.job(check_id(job_id, 'job_id')).to_wire()

    @_method
    def list_jobs(self, volume_id: object = None,
                  unfinished: object = False) -> Wire:
        """Return jobs."""
        if volume_id is not None:
            volume_id = check_id(volume_id, 'volume_id')
        jobs = self._agent.jobs(volume_id,
                                check_flag(unfinished, 'unfinished'))
        return {'jobs': [job.to_wire() for job in jobs]}

    @_method
    def wait_job(self, job_id: object, revision: object = 0,
                 seconds: object = MAX_WAIT) -> Wire:
        """Return a job when it is newer than ``revision`` or has ended."""
        job_id = check_id(job_id, 'job_id')
        revision = check_number(revision, 'revision')
        seconds = min(check_time(seconds, 'seconds'), MAX_WAIT)
        slots = self._waiters
        if not slots.acquire(blocking=False):
            return self._agent.job(job_id).to_wire()
        try:
            return self._wait(job_id, revision, seconds)
        finally:
            slots.release()

    @_method
    def set_bandwidth(self, job_id: object, bandwidth: object) -> Wire:
        """Limit a job."""
        return self._agent.set_bandwidth(
            check_id(job_id, 'job_id'),
            check_number(bandwidth, 'bandwidth')).to_wire()

    @_method
    def pause_job(self, job_id: object) -> Wire:
        """Let a job rest."""
        return self._agent.pause(check_id(job_id, 'job_id')).to_wire()

    @_method
    def resume_job(self, job_id: object) -> Wire:
        """Let a paused job go on."""
        return self._agent.resume(check_id(job_id, 'job_id')).to_wire()

    @_method
    def abort_job(self, job_id: object) -> Wire:
        """Give a job up."""
        return self._agent.abort(check_id(job_id, 'job_id')).to_wire()

    @_method
    def get_chain(self, volume_id: object) -> Wire:
        """Return the live chain of a volume."""
        return self._agent.chain(check_id(volume_id, 'volume_id')).to_wire()

    @_method
    def extend(self, volume_id: object, size: object) -> Wire:
        """Let an attached volume grow; since 1.1."""
        return self._agent.extend(check_id(volume_id, 'volume_id'),
                                  check_size(size, 'size')).to_wire()

    def _wait(self, job_id: str, revision: int, seconds: float) -> Wire:
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            job = self._agent.wait(job_id, revision,
                                   max(0.0, min(left, _SLICE)))
            if (job.revision > revision or job.state.final
                    or left <= 0 or self._closing.is_set()):
                return job.to_wire()
