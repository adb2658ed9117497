# SPDX-License-Identifier: Apache-2.0
"""The unfinished jobs: their records, and what is known of them just now.

Every change of a record goes through :meth:`Board.amend`, which journals it
before anybody sees it.  Progress and passing remarks are not journaled.
All methods may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace
import threading
import time
from typing import Any

from assisted_snapshots.agent.convergence import Track
from assisted_snapshots.agent.decide import Verdict
from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.record import Record

#: Fields whose change is not worth a write to the disk.
PASSING = frozenset({'note', 'chains', 'done_bytes', 'total_bytes'})


@dataclass(slots=True, eq=False)
class Task:
    """An unfinished job in memory.

    Besides ``record``, which only the board changes, the fields belong to
    the one worker that has the task, or to the engine under its lock.

    :ivar verdict: last event of the block job begun for it.
    :ivar missing_since: when what is expected was first not there.
    :ivar canceling: QEMU was asked to give the block job up.
    :ivar track: progress so far, for judging it.
    :ivar flushes: attempts to make the merge durable.
    :ivar slot: it counts among the running merges.
    :ivar busy: a worker has it.
    :ivar again: something happened meanwhile.
    :ivar due: when to look at it next (monotonic).
    """

    record: Record
    verdict: Verdict | None = None
    missing_since: float | None = None
    canceling: bool = False
    track: Track | None = None
    flushes: int = 0
    slot: bool = False
    busy: bool = False
    again: bool = False
    due: float = 0.0


class Board:
    """Unfinished jobs by id, backed by the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._changed = threading.Condition(threading.RLock())
        self._tasks = {r.id: Task(r) for r in journal.unfinished()}
        self._closed = False

    def tasks(self) -> list[Task]:
        """Return the unfinished jobs, oldest first."""
        with self._changed:
            return list(self._tasks.values())

    def task(self, job_id: str) -> Task | None:
        """Return an unfinished job."""
        with self._changed:
            return self._tasks.get(job_id)

    def records(self) -> list[Record]:
        """Return every job that is remembered, oldest first."""
        with self._changed:
            return [self._tasks[r.id].record if r.id in self._tasks else r
                    for r in self._journal.jobs()]

    def record(self, job_id: str) -> Record | None:
        """Return a job, finished or not."""
        with self._changed:
            task = self._tasks.get(job_id)
            return task.record if task else self._journal.get(job_id)

    def newest(self, operation: str) -> Record | None:
        """Return the last job of an operation."""
        with self._changed:
            found = self._journal.newest(operation)
            return self.record(found.id) if found else None

    def add(self, record: Record) -> Task:
        """Take in an accepted job."""
        now = time.time()
        record = replace(record, created=now, updated=now,
                         revision=int(now * 1e6))
        with self._changed:
            self._journal.put(record)
            self._tasks[record.id] = task = Task(record)
            self._changed.notify_all()
        return task

    def amend(self, job_id: str, **changes: Any) -> Record:
        """Change an unfinished job; returns its new record."""
        return self.amend_if(job_id, lambda _record: None, **changes)

    def amend_if(self, job_id: str, check: Callable[[Record], None],
                 **changes: Any) -> Record:
        """Change an unfinished job unless ``check`` raises."""
        with self._changed:
            task = self._tasks[job_id]
            check(task.record)
            record = replace(
                task.record, **changes, updated=time.time(),
                revision=max(task.record.revision + 1,
                             int(time.time() * 1e6)))
            if not PASSING.issuperset(changes):
                self._journal.put(record)
            task.record = record
            if record.state.final:
                del self._tasks[job_id]
            self._changed.notify_all()
        return record

    def remark(self, job_id: str, **changes: Any) -> None:
        """Change passing fields, if that is a change."""
        with self._changed:
            task = self._tasks.get(job_id)
            if task is not None and any(
                    getattr(task.record, k) != v
                    for k, v in changes.items()):
                self.amend(job_id, **changes)

    def left_frozen(self) -> list[Record]:
        """Return ended jobs that may have left their guest frozen."""
        with self._changed:
            return [r for r in self._journal.jobs()
                    if r.frozen and r.state.final]

    def thawed(self, record: Record) -> None:
        """Note that an ended job's guest is not frozen any more."""
        with self._changed:
            self._journal.put(replace(record, frozen=False))

    def wait(self, job_id: str, revision: int,
             seconds: float) -> Record | None:
        """Wait until a job is newer than a revision, or final."""
        until = time.monotonic() + seconds
        with self._changed:
            while True:
                record = self.record(job_id)
                left = until - time.monotonic()
                if record is None or record.state.final or left <= 0 \
                        or record.revision > revision or self._closed:
                    return record
                self._changed.wait(left)

    def close(self) -> None:
        """Let go of everybody who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
