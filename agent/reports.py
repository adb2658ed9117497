# SPDX-License-Identifier: Apache-2.0
"""Sends what is in the journal's outbox until it is acknowledged.

A report leaves the journal only after the callback endpoint has taken it,
so one may be delivered twice and none is lost.  The journal keeps the latest
report of each job, so a job's reports never overtake one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading
import time

from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.journal import Report
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Job

LOG = logging.getLogger(__name__)

# The most seconds between two looks.
_TICK = 1.0

# Reports in one round, besides those that rest.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to rest after a number of failures in a row."""

    first: float
    most: float

    def delay(self, failures: int) -> float:
        """Return seconds, doubled with every failure up to the most."""
        return min(self.most, self.first * 2.0 ** min(failures - 1, 30))


@dataclass(slots=True)
class _Trouble:
    """What went wrong with one job's report, or with all of them."""

    failures: int = 0
    rest_until: float = 0.0


class Outbox:
    """A thread that delivers reports.

    An endpoint that is away holds up all reports; one that refuses a job's
    report holds up only that job's.

    :param send: delivers one report; returns when it is acknowledged.
    """

    def __init__(self, journal: Journal, send: Callable[[Job], None],
                 backoff: Backoff) -> None:
        self.backoff = backoff
        self._journal = journal
        self._send = send
        self._lock = threading.Lock()
        self._stopped = False
        self._away = _Trouble()
        self._refused: dict[str, _Trouble] = {}
        self._thread = threading.Thread(target=self._run, name='reports',
                                        daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self) -> None:
        """Stop at once; the journal is not touched after this returns."""
        with self._lock:
            self._stopped = True

    def _run(self) -> None:
        going = True
        while going:
            try:
                going = self._deliver()
            except Exception:
                # A full disk, say: the reports are still in the journal.
                LOG.exception('Reports could not be delivered')
                time.sleep(_TICK)

    def _deliver(self) -> bool:
        """Send what is due, then wait for news; False when stopped."""
        with self._lock:
            if self._stopped:
                return False
            seen = self._journal.writes
            pending = self._journal.pending_reports(
                _BATCH + len(self._refused))
        waiting = {report.job.id for report in pending}
        self._refused = {job_id: trouble for job_id, trouble
                         in self._refused.items() if job_id in waiting}
        for report in pending:
            if time.monotonic() < self._away.rest_until:
                break
            self._attempt(report)
        if self._journal.writes == seen:
            self._journal.wait_reports(self._rest_of(pending))
        return True

    def _rest_of(self, pending: list[Report]) -> float:
        """Return seconds until something may be due."""
        now, fresh = time.monotonic(), _Trouble()
        due = [max(self._away.rest_until,
                   self._refused.get(report.job.id, fresh).rest_until) - now
               for report in pending]
        return max(0.01, min([_TICK, *due]))

    def _attempt(self, report: Report) -> None:
        trouble = self._refused.get(report.job.id, _Trouble())
        if time.monotonic() < trouble.rest_until:
            return
        try:
            self._send(report.job)
        except (errors.PeerSilent, errors.BrokerUnreachable) as exc:
            self._rest(self._away, exc)
        except errors.AgentError as exc:
            self._refused[report.job.id] = trouble
            self._rest(trouble, exc)
        else:
            self._away = _Trouble()
            self._refused.pop(report.job.id, None)
            with self._lock:
                if not self._stopped:
                    self._journal.acknowledge(report.id)

    def _rest(self, trouble: _Trouble, exc: errors.AgentError) -> None:
        trouble.failures += 1
        delay = self.backoff.delay(trouble.failures)
        trouble.rest_until = time.monotonic() + delay
        LOG.warning('A report was not taken, next attempt in %.1f s: %s',
                    delay, exc)
