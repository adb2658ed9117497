# SPDX-License-Identifier: Apache-2.0
"""The agent's memory: nothing it has taken in is lost or mixed up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import signal
import sqlite3
import subprocess
import sys
import threading

from hypothesis import given
from hypothesis import strategies as st
import pytest

from assisted_snapshots.agent import record as records
from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.journal import JournalError
from assisted_snapshots.agent.journal import JournalLocked
from assisted_snapshots.agent.journal import JournalVersion
from assisted_snapshots.agent.record import Record
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State


def merge(job_id: str = 'job-1', subject: str = 's1',
          report: bool = True) -> Record:
    request = MergeRequest(Kind.DELETE, 'a', subject, ('v', 'v.s1', 'v.s2'),
                           ('v', 'v.s1'), 'v', report=report)
    return Record(job_id, request, 'uuid', 'guest', 'vda',
                  {'a': '/srv/share'}, {'a': request.before}, updated=100.0)


def create(job_id: str = 'job-2') -> Record:
    request = CreateRequest((SnapshotDisk('a', 's1', 'v.s1'),
                             SnapshotDisk('b', 's2', 'w.s2')))
    return Record(job_id, request, 'uuid', 'guest', 'vda vdb',
                  {'a': '/srv/share', 'b': '/srv/other'},
                  {'a': ('v',), 'b': ('w',)})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal(journal.path.parent)


@pytest.mark.parametrize('record', [merge(), create()])
def test_record_comes_back_as_it_was(journal: Journal,
                                     record: Record) -> None:
    journal.put(record)
    assert reopened(journal).get(record.id) == record


@given(st.sampled_from(State), st.sampled_from(Condition), st.booleans(),
       st.integers(-1, 1 << 40), st.text(), st.dictionaries(
           st.text(min_size=1), st.lists(st.text()).map(tuple)))
def test_every_field_survives(state: State, condition: Condition, flag: bool,
                              number: int, text: str,
                              chains: dict[str, tuple[str, ...]]) -> None:
    record = replace(
        merge(), state=state, condition=condition, started=flag, frozen=flag,
        paused=flag, aborting=flag, suspended=flag, incarnation=number,
        attempts=number, bandwidth=number, note=text, error=text,
        chains=chains, formats={text: 'raw'}, created=number / 3)
    assert records.loads(records.dumps(record)) == record


def test_message_is_a_job_of_the_protocol() -> None:
    job = replace(merge(), chains={'a': ('v',)}).message(unreported=True)
    assert job.unreported
    assert Job.from_wire(job.to_wire()) == job


def test_same_operation_has_the_same_name() -> None:
    other = CreateRequest((SnapshotDisk('b', 's2', 'x'),
                           SnapshotDisk('a', 's1', 'y')))
    assert create().operation == replace(create(), request=other).operation
    assert merge().operation != merge(subject='s2').operation


def test_newest_of_an_operation(journal: Journal) -> None:
    journal.put(replace(merge('first'), state=State.FAILED))
    journal.put(merge('other', subject='s2'))
    journal.put(merge('second'))
    # A late change of the first does not make it the newest.
    journal.put(replace(merge('first'), state=State.FAILED, note='x'))
    found = journal.newest(merge().operation)
    assert found is not None and found.id == 'second'
    assert journal.newest('no such operation') is None


def test_unfinished_jobs(journal: Journal) -> None:
    for state in State:
        journal.put(replace(merge(f'job-{state}'), state=state))
    assert [r.state for r in journal.unfinished()] == [
        s for s in State if not s.final]
    assert len(journal.jobs()) == len(State)


def test_nothing_is_found_in_an_empty_journal(journal: Journal) -> None:
    assert journal.get('x') is None
    assert journal.jobs() == journal.unfinished() == []
    assert journal.pending_reports() == []


class TestReports:
    """At least once, the latest state, in order."""

    def test_unasked_for_is_not_reported(self, journal: Journal) -> None:
        journal.put(merge(report=False))
        assert journal.pending_reports() == []

    def test_latest_state_only(self, journal: Journal) -> None:
        journal.put(merge())
        journal.put(replace(merge(), state=State.DONE))
        (report,) = journal.pending_reports()
        assert report.job.state is State.DONE

    def test_waits_over_a_restart(self, journal: Journal) -> None:
        journal.put(merge())
        (report,) = reopened(journal).pending_reports()
        assert report.job.id == 'job-1'

    def test_acknowledged_is_gone(self, journal: Journal) -> None:
        journal.put(merge())
        assert journal.unreported('job-1')
        journal.acknowledge(journal.pending_reports()[0].id)
        assert journal.pending_reports() == []
        assert not journal.unreported('job-1')
        assert journal.get('job-1') is not None

    def test_late_acknowledgement_does_not_swallow_newer(
            self, journal: Journal) -> None:
        journal.put(merge())
        (old,) = journal.pending_reports()
        journal.put(replace(merge(), state=State.DONE))
        journal.acknowledge(old.id)
        (new,) = journal.pending_reports()
        assert new.job.state is State.DONE

    def test_order_and_limit(self, journal: Journal) -> None:
        for name in ('one', 'two', 'three'):
            journal.put(merge(name, subject=name))
        journal.put(replace(merge('one', subject='one'), note='again'))
        order = [r.job.id for r in journal.pending_reports()]
        assert order == ['two', 'three', 'one']
        assert len(journal.pending_reports(limit=2)) == 2

    def test_waiting_ends_with_news(self, journal: Journal) -> None:
        assert not journal.wait_reports(0.0)
        timer = threading.Timer(0.1, journal.put, [merge()])
        timer.start()
        assert journal.wait_reports(30.0)
        timer.join()


class TestForgetting:
    """Old jobs go when they have ended and their report is out."""

    def test_only_ended_and_old(self, journal: Journal) -> None:
        journal.put(replace(merge('old', report=False), state=State.DONE))
        journal.put(replace(merge('new', report=False), state=State.DONE,
                            updated=300.0))
        journal.put(merge('open', report=False))
        journal.forget(200.0)
        assert [r.id for r in journal.jobs()] == ['new', 'open']

    def test_not_before_its_report_is_out(self, journal: Journal) -> None:
        journal.put(replace(merge(), state=State.DONE))
        journal.forget(200.0)
        assert journal.get('job-1') is not None
        journal.acknowledge(journal.pending_reports()[0].id)
        journal.forget(200.0)
        assert journal.get('job-1') is None

    def test_nothing_old_costs_no_write(self, journal: Journal) -> None:
        journal.put(merge())
        before = journal.writes
        journal.forget(200.0)
        assert journal.writes == before


def test_every_write_is_observed_after_it_is_on_disk(
        journal: Journal) -> None:
    steps = []

    def observe(step: str) -> None:
        with sqlite3.connect(journal.path) as other:
            found = other.execute('SELECT count(*) FROM jobs').fetchone()
        steps.append((step, found[0]))

    journal.observer = observe
    journal.put(merge())
    journal.put(create())
    assert steps == [('delete s1: accepted', 1),
                     ('create s1 s2: accepted', 2)]
    assert journal.writes == 2


def test_failed_write_leaves_nothing(journal: Journal) -> None:
    journal.put(merge())
    before = journal.writes
    bad = replace(merge('job-3'), updated=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        journal.put(bad)
    assert journal.writes == before
    assert [r.id for r in journal.jobs()] == ['job-1']
    assert [r.job.id for r in journal.pending_reports()] == ['job-1']
    journal.put(create())


def test_two_agents_cannot_share_it(journal: Journal) -> None:
    code = ('import sys, pathlib; '
            'from assisted_snapshots.agent.journal import *\n'
            'try: Journal(pathlib.Path(sys.argv[1]))\n'
            'except JournalLocked as e: print(e)')
    found = subprocess.run(
        [sys.executable, '-c', code, journal.path.parent], text=True,
        capture_output=True, check=True)
    assert 'another running agent' in found.stdout


def test_killed_agent_leaves_no_lock(tmp_path: Path) -> None:
    code = ('import sys, os, pathlib, signal; '
            'from assisted_snapshots.agent.journal import *\n'
            'Journal(pathlib.Path(sys.argv[1]))\n'
            'os.kill(os.getpid(), signal.SIGKILL)')
    ended = subprocess.run([sys.executable, '-c', code, tmp_path],
                           check=False)
    assert ended.returncode == -signal.SIGKILL
    assert Journal(tmp_path).jobs() == []


def test_other_version_is_refused_by_name(journal: Journal) -> None:
    journal.close()
    with sqlite3.connect(journal.path) as db:
        db.execute('PRAGMA user_version=7')
    with pytest.raises(JournalVersion, match='version 7'):
        Journal(journal.path.parent)


def test_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / 'journal.sqlite').write_bytes(b'nonsense' * 1000)
    with pytest.raises(JournalError, match=r'journal\.sqlite'):
        Journal(tmp_path)


def test_errors_have_one_base() -> None:
    assert issubclass(JournalLocked, JournalError)
    assert issubclass(JournalVersion, JournalError)
