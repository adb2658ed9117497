# SPDX-License-Identifier: Apache-2.0
"""A report stays in the journal until somebody has taken it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
from pathlib import Path
import threading

from hypothesis import given
from hypothesis import strategies as st
import pytest

from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.reports import Backoff
from assisted_snapshots.agent.reports import Outbox
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State

SECONDS = 20
AWAY = errors.PeerSilent(host='h', method='report', seconds=1)
REFUSED = errors.InternalError(host='h', method='report', reason='KeyError')


def record(name: str, revision: int = 1, state: State = State.RUNNING,
           report: bool = True) -> Record:
    disk = SnapshotDisk(f'v-{name}', f's-{name}', f'f-{name}')
    return Record(id=name, request=CreateRequest((disk,), report=report),
                  uuid='u', domain='guest', device='vda',
                  folders={disk.volume_id: '/share'},
                  before={disk.volume_id: ('base',)}, revision=revision,
                  state=state)


class Consumer:
    """Takes reports, or does what ``on_report`` says."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.on_report: Callable[[Job], None] = lambda _job: None
        self._changed = threading.Condition()

    def __call__(self, job: Job) -> None:
        self.on_report(job)
        with self._changed:
            self.taken.append((job.id, job.revision))
            self._changed.notify_all()

    def await_(self, *wanted: tuple[str, int]) -> None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: set(wanted) <= set(self.taken), SECONDS), self.taken


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.close()


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


@pytest.fixture
def outbox(journal: Journal, consumer: Consumer) -> Iterator[Outbox]:
    made = Outbox(journal, consumer, Backoff(0.01, 0.05))
    yield made
    made.stop()
    # It may be in the middle of an attempt, which it logs.
    journal.put(record('wakes-it', report=False))
    for thread in threading.enumerate():
        if thread.name == 'reports':
            thread.join(SECONDS)


def emptied(journal: Journal) -> bool:
    for _ in range(SECONDS * 10):
        if not journal.pending_reports():
            return True
        journal.wait_reports(0.1)
    return False


def test_what_an_earlier_process_left_is_sent(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    for name in ('a', 'b'):
        journal.put(record(name, 7, State.DONE))
    outbox.start()
    consumer.await_(('a', 7), ('b', 7))
    assert emptied(journal)


def test_jobs_without_reports_stay_at_home(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    journal.put(record('quiet', report=False))
    journal.put(record('loud'))
    outbox.start()
    consumer.await_(('loud', 1))
    assert consumer.taken == [('loud', 1)]


def test_every_job_ends_with_its_last_report(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    outbox.start()
    for revision in range(1, 30):
        journal.put(record('a', revision))
    journal.put(record('a', 30, State.DONE))
    consumer.await_(('a', 30))
    revisions = [revision for _, revision in consumer.taken]
    assert revisions == sorted(revisions)


def test_absent_consumer_gets_everything_later(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    tried = threading.Semaphore(0)

    def away(_job: Job) -> None:
        tried.release()
        raise AWAY
    consumer.on_report = away
    for name in ('a', 'b', 'c'):
        journal.put(record(name, 1, State.DONE))
    outbox.start()
    assert all(tried.acquire(timeout=SECONDS) for _ in range(4))
    assert len(journal.pending_reports()) == 3
    consumer.on_report = lambda _job: None
    consumer.await_(('a', 1), ('b', 1), ('c', 1))
    assert emptied(journal)


def test_refused_report_holds_up_no_other_job(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    def choosy(job: Job) -> None:
        if job.id == 'bad':
            raise REFUSED
    consumer.on_report = choosy
    for name in ('bad', 'a', 'b'):
        journal.put(record(name, 1, State.DONE))
    outbox.start()
    consumer.await_(('a', 1), ('b', 1))
    assert [r.job.id for r in journal.pending_reports()] == ['bad']
    consumer.on_report = lambda _job: None
    consumer.await_(('bad', 1))


def test_more_refused_reports_than_fit_a_round(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    def choosy(job: Job) -> None:
        if job.id != 'last':
            raise REFUSED
    consumer.on_report = choosy
    for number in range(150):
        journal.put(record(f'bad-{number}', 1, State.DONE))
    journal.put(record('last', 1, State.DONE))
    outbox.start()
    consumer.await_(('last', 1))


def test_newer_report_survives_the_acknowledgement_of_the_older(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    def during(job: Job) -> None:
        if job.revision == 1:
            journal.put(dataclasses.replace(record('a'), revision=2))
    consumer.on_report = during
    journal.put(record('a'))
    outbox.start()
    consumer.await_(('a', 1), ('a', 2))


def test_trouble_with_the_journal_is_survived(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    failed = threading.Event()

    def full(_step: str) -> None:
        journal.observer = None
        failed.set()
        raise OSError('no space left on device')
    journal.put(record('a'))
    journal.observer = full
    outbox.start()
    assert failed.wait(SECONDS)
    journal.put(record('b'))
    consumer.await_(('a', 1), ('b', 1))


def test_nothing_is_written_after_the_stop(
        journal: Journal, outbox: Outbox, consumer: Consumer) -> None:
    sending, go = threading.Event(), threading.Event()

    def slow(_job: Job) -> None:
        sending.set()
        go.wait(SECONDS)
    consumer.on_report = slow
    journal.put(record('a'))
    outbox.start()
    assert sending.wait(SECONDS)
    outbox.stop()
    go.set()
    consumer.await_(('a', 1))
    assert [r.job.id for r in journal.pending_reports()] == ['a']


@given(st.floats(0.01, 10), st.floats(0.01, 1000),
       st.integers(1, 10_000))
def test_backoff_grows_up_to_its_cap(first: float, most: float,
                                     failures: int) -> None:
    backoff = Backoff(first, most)
    assert backoff.delay(failures) <= backoff.delay(failures + 1) <= most
    assert backoff.delay(1) == min(first, most)
