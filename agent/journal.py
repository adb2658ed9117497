# SPDX-License-Identifier: Apache-2.0
"""The agent's memory: jobs and unsent reports in one SQLite file.

A change of a job and the report about it are one transaction, on disk
before the method returns (WAL, ``synchronous=FULL``).  The journal never
interprets a job: what a record means is :mod:`.decide`'s business.

Any thread may call any method; one lock serialises them.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import fcntl
import os
from pathlib import Path
import sqlite3
import threading

from assisted_snapshots.agent import record as records
from assisted_snapshots.agent.record import Record
from assisted_snapshots.rpcapi.messages import Job

VERSION = 1

_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    operation TEXT NOT NULL,
    final INTEGER NOT NULL,
    updated REAL NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX jobs_operation ON jobs (operation);
CREATE INDEX jobs_final ON jobs (final, updated);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
);
"""


class JournalError(Exception):
    """The journal cannot be used."""

    message = '{path}: {reason}'

    def __init__(self, path: Path, reason: object) -> None:
        self.path = path
        super().__init__(self.message.format(path=path, reason=reason))


class JournalLocked(JournalError):
    """Another agent works with this journal."""

    message = ('{path} belongs to another running agent ({reason}); give '
               'each agent its own state_dir')


class JournalVersion(JournalError):
    """Written by another version of this program."""

    message = ('{path} has version {reason}, this agent understands '
               f'{VERSION}; finish the jobs with the agent that wrote it or '
               'move the file away')


@dataclass(frozen=True, slots=True)
class Report:
    """A job's news that nobody has acknowledged yet."""

    id: int
    job: Job


class Journal:
    """Jobs and reports on disk.

    :ivar writes: transactions committed since the journal was opened.
    :ivar observer: called with a sentence after every committed write.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / 'journal.sqlite'
        self.writes = 0
        self.observer: Callable[[str], None] | None = None
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = self._take(state_dir / 'agent.lock')
        self._db = self._open()

    @staticmethod
    def _take(path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(fd)
            raise JournalLocked(path, e.strerror) from e
        return fd

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None,
                             check_same_thread=False)
        try:
            db.execute('PRAGMA journal_mode=WAL')
            db.execute('PRAGMA synchronous=FULL')
            version = db.execute('PRAGMA user_version').fetchone()[0]
            if version == 0:
                db.executescript(f'BEGIN; {_SCHEMA}'
                                 f'PRAGMA user_version={VERSION}; COMMIT;')
        except sqlite3.DatabaseError as e:
            raise JournalError(self.path, e) from e
        if version not in (0, VERSION):
            raise JournalVersion(self.path, version)
        return db

    def close(self) -> None:
        """Close the files; the journal cannot be used any more."""
        with self._lock:
            self._db.close()
            os.close(self._lock_fd)

    @contextmanager
    def _write(self, step: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute('BEGIN IMMEDIATE')
            try:
                yield self._db
            except BaseException:
                self._db.execute('ROLLBACK')
                raise
            self._db.execute('COMMIT')
            self.writes += 1
            self._news.notify_all()
            if self.observer:
                self.observer(step)

    def put(self, record: Record) -> None:
        """Store a job, and its report where one is wanted."""
        text = records.dumps(record)
        step = f'{record.kind} {" ".join(record.subjects)}: {record.state}'
        with self._write(step) as db:
            db.execute(
                'INSERT INTO jobs VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO '
                'UPDATE SET final=excluded.final, updated=excluded.updated, '
                'record=excluded.record',
                (record.id, record.operation, record.state.final,
                 record.updated, text))
            if record.request.report:
                # A newer report replaces an unsent older one under a new
                # number, so that a late acknowledgement of the old one
                # cannot swallow it.
                db.execute('INSERT OR REPLACE INTO outbox (job, record) '
                           'VALUES (?, ?)', (record.id, text))

    def get(self, job_id: str) -> Record | None:
        """Return a job by its id."""
        return self._one('SELECT record FROM jobs WHERE id=?', job_id)

    def newest(self, operation: str) -> Record | None:
        """Return the last job of an operation, finished or not."""
        return self._one('SELECT record FROM jobs WHERE operation=? '
                         'ORDER BY rowid DESC LIMIT 1', operation)

    def unfinished(self) -> list[Record]:
        """Return all jobs that have not ended, oldest first."""
        return self._all('SELECT record FROM jobs WHERE final=0 '
                         'ORDER BY rowid')

    def jobs(self) -> list[Record]:
        """Return all jobs, oldest first."""
        return self._all('SELECT record FROM jobs ORDER BY rowid')

    def forget(self, before: float) -> None:
        """Drop jobs that ended before a time and whose report is out."""
        with self._lock:
            old = self._db.execute(
                'SELECT id FROM jobs WHERE final=1 AND updated<? AND '
                'id NOT IN (SELECT job FROM outbox)', (before,)).fetchall()
            if old:
                with self._write('forget old jobs') as db:
                    db.executemany('DELETE FROM jobs WHERE id=?', old)

    def pending_reports(self, limit: int = 100) -> list[Report]:
        """Return reports that were not acknowledged, oldest first."""
        with self._lock:
            rows = self._db.execute('SELECT id, record FROM outbox ORDER BY '
                                    'id LIMIT ?', (limit,)).fetchall()
        return [Report(i, records.loads(text).message(unreported=True))
                for i, text in rows]

    def unreported(self, job_id: str) -> bool:
        """Tell whether a job has a report that was not acknowledged."""
        with self._lock:
            return self._db.execute('SELECT 1 FROM outbox WHERE job=?',
                                    (job_id,)).fetchone() is not None

    def acknowledge(self, report_id: int) -> None:
        """Drop a report that has arrived; unknown numbers are fine."""
        with self._write('report acknowledged') as db:
            db.execute('DELETE FROM outbox WHERE id=?', (report_id,))

    def wait_reports(self, seconds: float) -> bool:
        """Wait until the journal is written to; True if it was."""
        with self._news:
            return self._news.wait(seconds)

    def _one(self, query: str, value: str) -> Record | None:
        with self._lock:
            row = self._db.execute(query, (value,)).fetchone()
        return records.loads(row[0]) if row else None

    def _all(self, query: str) -> list[Record]:
        with self._lock:
            rows = self._db.execute(query).fetchall()
        return [records.loads(text) for (text,) in rows]
