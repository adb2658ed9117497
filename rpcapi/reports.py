# SPDX-License-Identifier: Apache-2.0
"""Reports: what an agent tells the callback endpoint about its jobs.

A report is the job as it was when it was written down.  It is delivered at
least once, in order for each job, so whoever takes reports must be able to
take one again.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping

import oslo_messaging as messaging

from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.transport import Caller


class ReportClient:
    """Delivers reports; returning means the other side has it."""

    def __init__(self, transport: messaging.RPCTransport, host: str,
                 topic: str = target.REPORT_TOPIC,
                 timeout: float = 10.0) -> None:
        self._caller = Caller(transport, target.report(host, topic), timeout)

    def report(self, job: Job) -> None:
        """Deliver a report or raise an AgentError."""
        self._caller.call('report', {'job': job.to_wire()})

    def ping(self) -> None:
        """See that somebody takes reports, or raise an AgentError."""
        self._caller.call('ping', version='1.1')


class ReportEndpoint:
    """The receiving side, to be given to ``oslo_messaging.get_rpc_server``.

    :param take: called with each report; it is acknowledged when ``take``
        returns and sent again later when it raises.
    """

    target = messaging.Target(version=target.REPORT_VERSION)

    def __init__(self, take: Callable[[Job], None]) -> None:
        self._take = take

    def report(self, _context: Mapping[str, object], job: object) -> None:
        """Take one report."""
        self._take(Job.from_wire(job))

    def ping(self, _context: Mapping[str, object]) -> None:
        """Say that reports are taken here."""
