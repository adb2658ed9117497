# SPDX-License-Identifier: Apache-2.0
"""Unfinished jobs: journaled before they are seen, and waited for."""

from __future__ import annotations

from pathlib import Path
import threading

import pytest

from assisted_snapshots.agent.board import Board
from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.record import Record
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import State


def record(job_id: str = 'job') -> Record:
    request = MergeRequest(Kind.DELETE, 'a', 's', ('v', 'v.1'), ('v', 'v.1'),
                           'v')
    return Record(job_id, request, 'uuid', 'guest', 'vda', {'a': '/s'},
                  {'a': ('v', 'v.1')})


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


@pytest.fixture
def board(journal: Journal) -> Board:
    made = Board(journal)
    made.add(record())
    return made


def test_added_job_is_journaled(board: Board, journal: Journal) -> None:
    found = journal.get('job')
    assert found is not None and found.created > 0
    assert board.record('job') == found
    assert [t.record for t in board.tasks()] == [found]


def test_unfinished_jobs_are_taken_up(board: Board, journal: Journal) -> None:
    task = Board(journal).task('job')
    assert task is not None and task.record == board.record('job')


def test_change_is_journaled_first(board: Board, journal: Journal) -> None:
    changed = board.amend('job', state=State.RUNNING, attempts=1)
    assert journal.get('job') == changed == board.record('job')


def test_passing_change_costs_no_write(board: Board,
                                       journal: Journal) -> None:
    before = journal.writes
    board.remark('job', done_bytes=5, note='runs')
    board.remark('job', done_bytes=5, note='runs')
    assert journal.writes == before
    found = board.record('job')
    assert found is not None and found.done_bytes == 5
    # The next write takes it along.
    board.amend('job', started=True)
    written = journal.get('job')
    assert written is not None and written.done_bytes == 5


def test_revision_grows_with_every_change(board: Board) -> None:
    seen = [board.amend('job', note=str(i)).revision for i in range(20)]
    assert seen == sorted(set(seen))


def test_revision_grows_over_a_restart(board: Board,
                                       journal: Journal) -> None:
    """Passing changes are forgotten, yet the next is newer than all."""
    for i in range(20):
        newest = board.amend('job', note=str(i))
    later = Board(journal).amend('job', state=State.RUNNING)
    assert later.revision >= newest.revision


def test_ended_job_is_in_the_journal_only(board: Board) -> None:
    board.amend('job', state=State.DONE)
    assert board.tasks() == [] and board.task('job') is None
    found = board.record('job')
    assert found is not None and found.state is State.DONE
    board.remark('job', note='too late')
    assert [r.note for r in board.records()] == ['']
    with pytest.raises(KeyError):
        board.amend('job', note='x')


def test_refused_change_changes_nothing(board: Board,
                                        journal: Journal) -> None:
    def refuse(found: Record) -> None:
        raise errors.JobState(job_id=found.id, state=found.state, reason='no')

    before = board.record('job')
    with pytest.raises(errors.JobState):
        board.amend_if('job', refuse, paused=True)
    assert board.record('job') == journal.get('job') == before


class TestWaiting:
    def test_newer_already(self, board: Board) -> None:
        found = board.wait('job', 0, 1000.0)
        assert found == board.record('job')

    def test_time_is_over(self, board: Board) -> None:
        now = board.record('job')
        assert now is not None
        assert board.wait('job', now.revision, 0.01) == now

    def test_change_ends_it(self, board: Board) -> None:
        now = board.record('job')
        assert now is not None
        timer = threading.Timer(0.1, board.amend, ['job'],
                                {'state': State.RUNNING})
        timer.start()
        found = board.wait('job', now.revision, 1000.0)
        timer.join()
        assert found is not None and found.state is State.RUNNING

    def test_end_ends_it(self, board: Board) -> None:
        ended = board.amend('job', state=State.FAILED)
        assert board.wait('job', ended.revision, 1000.0) == ended

    def test_unknown_job(self, board: Board) -> None:
        assert board.wait('nobody', 0, 1000.0) is None

    def test_closing_lets_go(self, board: Board) -> None:
        now = board.record('job')
        assert now is not None
        board.close()
        assert board.wait('job', now.revision, 1000.0) == now


def test_guests_left_frozen(board: Board, journal: Journal) -> None:
    board.amend('job', frozen=True)
    assert board.left_frozen() == []  # not ended: thawed in its own step
    board.amend('job', state=State.DONE)
    (left,) = Board(journal).left_frozen()
    board.thawed(left)
    assert Board(journal).left_frozen() == []
