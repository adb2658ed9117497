# SPDX-License-Identifier: Apache-2.0
"""The engine's table: what is done next in every situation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from assisted_snapshots.agent.decide import Action
from assisted_snapshots.agent.decide import decide
from assisted_snapshots.agent.decide import Do
from assisted_snapshots.agent.decide import Limits
from assisted_snapshots.agent.decide import Observation
from assisted_snapshots.agent.decide import Presence
from assisted_snapshots.agent.decide import Verdict
from assisted_snapshots.agent.record import Record
from assisted_snapshots.rpcapi.errors import NotSupported
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State

ACTIVE, OFF, GONE = Presence.ACTIVE, Presence.OFF, Presence.GONE
ACCEPTED, RUNNING = State.ACCEPTED, State.RUNNING
PIVOTING, FLUSHING = State.PIVOTING, State.FLUSHING

BEFORE = ('v', 'v.1', 'v.2')
AFTER = ('v', 'v.2')
OTHER = ('v', 'v.1', 'v.2', 'v.3')
LIMITS = Limits()
RUN = 7  # this run of the guest


def merge(state: State, **fields: Any) -> Record:
    request = MergeRequest(Kind.DELETE, 'a', '1', BEFORE, ('v', 'v.1'), 'v')
    values: dict[str, Any] = {'method': 'commit'}
    if state is not ACCEPTED:
        values |= {'incarnation': RUN, 'started': True, 'attempts': 1}
    return replace(
        Record('job', request, 'uuid', 'guest', 'vda', {'a': '/s'},
               {'a': BEFORE}), state=state, **(values | fields))


def sight(presence: Presence, live: tuple[str, ...] | None,
          **fields: Any) -> Observation:
    values: dict[str, Any] = {
        'chains': {} if live is None else {'a': live},
        'incarnation': RUN if presence is ACTIVE else 0}
    return Observation(presence, **(values | fields))


def outcome(action: Action) -> Do | str:
    """What is done, or the code of the failure."""
    if action.do is Do.FAIL:
        assert action.error is not None
        return action.error.code
    return action.do


M = pytest.mark.parametrize(('state', 'fields', 'presence', 'live', 'found',
                             'expected'), [
    # Accepted: nothing has been done.
    (ACCEPTED, {}, ACTIVE, BEFORE, {}, Do.START),
    (ACCEPTED, {}, OFF, BEFORE, {}, Do.MERGE_FILES),
    (ACCEPTED, {}, ACTIVE, BEFORE, {'turn': False}, Do.WAIT),
    (ACCEPTED, {}, ACTIVE, BEFORE, {'job': 'copy'}, 'disk-busy'),
    (ACCEPTED, {}, ACTIVE, BEFORE, {'job': 'commit'}, 'disk-busy'),
    (ACCEPTED, {'aborting': True}, ACTIVE, BEFORE, {}, Do.ABORTED),
    (ACCEPTED, {}, ACTIVE, AFTER, {}, Do.FLUSH),
    (ACCEPTED, {'aborting': True}, ACTIVE, AFTER, {}, Do.FLUSH),
    (ACCEPTED, {}, OFF, AFTER, {}, Do.FLUSH),
    (ACCEPTED, {}, GONE, None, {}, Do.WAIT),
    (ACCEPTED, {}, GONE, None, {'missing': 11}, 'guest-state'),
    (ACCEPTED, {}, ACTIVE, None, {'missing': 11}, 'guest-state'),
    # It was seen on the planned chain: what it wrote may be there only.
    (ACCEPTED, {'chains': {'a': AFTER}}, GONE, None, {'missing': 11},
     Do.FLUSH),
    (RUNNING, {'chains': {'a': AFTER}}, GONE, None, {'missing': 11},
     Do.FLUSH),
    (RUNNING, {'chains': {'a': BEFORE}}, GONE, None, {'missing': 11},
     'guest-state'),
    (ACCEPTED, {}, ACTIVE, OTHER, {}, 'chain-mismatch'),
    # Running: the call was about to be made.
    (RUNNING, {'started': False}, ACTIVE, BEFORE, {}, Do.START),
    (RUNNING, {'started': False}, ACTIVE, BEFORE, {'job': 'commit'},
     Do.ADOPT),
    (RUNNING, {'started': False}, ACTIVE, BEFORE, {'job': 'pull'},
     'disk-busy'),
    (RUNNING, {'started': False}, ACTIVE, AFTER, {}, Do.FLUSH),
    (RUNNING, {'started': False, 'aborting': True}, ACTIVE, BEFORE, {},
     Do.ABORTED),
    (RUNNING, {'started': False, 'attempts': 20}, ACTIVE, BEFORE, {},
     'block-job-failed'),
    # Running: the block job is there.
    (RUNNING, {}, ACTIVE, BEFORE, {'job': 'commit'}, Do.WAIT),
    (RUNNING, {}, ACTIVE, BEFORE, {'job': 'copy'}, 'disk-busy'),
    (RUNNING, {}, ACTIVE, BEFORE, {'job': 'commit', 'ready': True},
     Do.PIVOT),
    (RUNNING, {'paused': True}, ACTIVE, BEFORE,
     {'job': 'commit', 'ready': True}, Do.WAIT),
    (RUNNING, {'aborting': True}, ACTIVE, BEFORE,
     {'job': 'commit', 'ready': True}, Do.CANCEL),
    (RUNNING, {'aborting': True}, ACTIVE, BEFORE,
     {'job': 'commit', 'canceling': True}, Do.WAIT),
    # A job's event may be of another job: what is there counts.
    (RUNNING, {}, ACTIVE, BEFORE,
     {'job': 'commit', 'verdict': Verdict.FAILED}, Do.WAIT),
    # Running: the block job is gone.
    (RUNNING, {}, ACTIVE, AFTER, {'verdict': Verdict.COMPLETED}, Do.FLUSH),
    (RUNNING, {}, ACTIVE, AFTER, {}, Do.FLUSH),
    (RUNNING, {}, ACTIVE, AFTER, {'job': 'commit'}, Do.WAIT),
    (RUNNING, {}, ACTIVE, AFTER, {'job': 'backup'}, Do.FLUSH),
    (RUNNING, {}, ACTIVE, AFTER, {'verdict': Verdict.FAILED},
     'chain-mismatch'),
    (RUNNING, {}, ACTIVE, BEFORE, {'verdict': Verdict.FAILED},
     'block-job-failed'),
    (RUNNING, {}, ACTIVE, BEFORE, {'verdict': Verdict.CANCELED},
     'block-job-failed'),
    (RUNNING, {}, ACTIVE, BEFORE, {'verdict': Verdict.COMPLETED},
     'chain-mismatch'),
    (RUNNING, {}, ACTIVE, BEFORE, {'missing': 2.9}, Do.WAIT),
    (RUNNING, {}, ACTIVE, BEFORE, {'missing': 3.0}, 'block-job-failed'),
    (RUNNING, {}, ACTIVE, OTHER, {'verdict': Verdict.COMPLETED},
     'chain-mismatch'),
    (RUNNING, {}, ACTIVE, OTHER, {'job': 'commit'}, 'chain-mismatch'),
    # Aborting: done when the block job is surely gone.
    (RUNNING, {'aborting': True}, ACTIVE, BEFORE,
     {'verdict': Verdict.CANCELED}, Do.ABORTED),
    (RUNNING, {'aborting': True}, ACTIVE, BEFORE,
     {'verdict': Verdict.FAILED}, Do.ABORTED),
    (RUNNING, {'aborting': True}, ACTIVE, BEFORE, {'missing': 1}, Do.WAIT),
    (RUNNING, {'aborting': True}, ACTIVE, BEFORE, {'missing': 3},
     Do.ABORTED),
    (RUNNING, {'aborting': True}, ACTIVE, AFTER, {}, Do.FLUSH),
    # QEMU was restarted: another run of the guest.
    (RUNNING, {'incarnation': 6}, ACTIVE, BEFORE, {}, Do.START),
    (RUNNING, {'incarnation': 6}, ACTIVE, BEFORE, {'job': 'commit'},
     'disk-busy'),
    (RUNNING, {'incarnation': 6}, ACTIVE, AFTER, {}, Do.FLUSH),
    (RUNNING, {'incarnation': 6, 'aborting': True}, ACTIVE, BEFORE, {},
     Do.ABORTED),
    (RUNNING, {'incarnation': 6, 'attempts': 20}, ACTIVE, BEFORE, {},
     'block-job-failed'),
    # An event of the earlier run proves nothing in this one.
    (RUNNING, {'incarnation': 6}, ACTIVE, BEFORE,
     {'verdict': Verdict.FAILED}, Do.START),
    (RUNNING, {'incarnation': 0}, ACTIVE, BEFORE, {}, Do.START),
    # The guest is off, or gone.
    (RUNNING, {}, OFF, BEFORE, {'missing': 5}, Do.WAIT),
    (RUNNING, {}, OFF, BEFORE, {'missing': 10}, Do.MERGE_FILES),
    (RUNNING, {'incarnation': 0}, OFF, BEFORE, {}, Do.MERGE_FILES),
    (RUNNING, {'aborting': True}, OFF, BEFORE, {}, Do.ABORTED),
    (RUNNING, {'incarnation': 0, 'attempts': 20}, OFF, BEFORE, {},
     'block-job-failed'),
    (RUNNING, {}, OFF, AFTER, {}, Do.FLUSH),
    (RUNNING, {}, OFF, OTHER, {}, 'chain-mismatch'),
    (RUNNING, {}, GONE, None, {'missing': 9}, Do.WAIT),
    (RUNNING, {}, GONE, None, {'missing': 10}, 'guest-state'),
    (RUNNING, {}, ACTIVE, None, {'missing': 10}, 'guest-state'),
    # Pivoting: which layer is written to must be known.
    (PIVOTING, {}, ACTIVE, BEFORE, {'job': 'commit', 'ready': True},
     Do.PIVOT),
    (PIVOTING, {}, ACTIVE, BEFORE, {'job': 'commit'}, Do.WAIT),
    (PIVOTING, {'aborting': True}, ACTIVE, BEFORE,
     {'job': 'commit', 'ready': True}, Do.CANCEL),
    (PIVOTING, {'aborting': True}, ACTIVE, AFTER, {}, Do.FLUSH),
    (PIVOTING, {}, ACTIVE, AFTER, {}, Do.FLUSH),
    (PIVOTING, {}, ACTIVE, BEFORE, {'verdict': Verdict.FAILED},
     'block-job-failed'),
    (PIVOTING, {'incarnation': 6}, ACTIVE, BEFORE, {}, Do.START),
    (PIVOTING, {}, OFF, AFTER, {}, Do.FLUSH),
    (PIVOTING, {}, GONE, None, {'missing': 10}, 'guest-lost'),
    # Flushing: the chain has been right.
    (FLUSHING, {}, ACTIVE, AFTER, {}, Do.FLUSH),
    (FLUSHING, {}, ACTIVE, AFTER, {'job': 'commit'}, Do.FLUSH),
    (FLUSHING, {'aborting': True}, ACTIVE, AFTER, {}, Do.FLUSH),
    (FLUSHING, {'incarnation': 6}, ACTIVE, AFTER, {}, Do.FLUSH),
    (FLUSHING, {}, OFF, AFTER, {}, Do.FLUSH),
    (FLUSHING, {}, GONE, None, {}, Do.FLUSH),
    (FLUSHING, {}, ACTIVE, None, {}, Do.FLUSH),
    (FLUSHING, {}, ACTIVE, BEFORE, {}, 'chain-mismatch'),
    (FLUSHING, {}, OFF, BEFORE, {}, 'chain-mismatch'),
    (FLUSHING, {}, ACTIVE, OTHER, {}, 'chain-mismatch')])


@M
def test_merge(state: State, fields: dict[str, Any], presence: Presence,
               live: tuple[str, ...] | None, found: dict[str, Any],
               expected: Do | str) -> None:
    action = decide(merge(state, **fields), sight(presence, live, **found),
                    LIMITS)
    assert outcome(action) == expected


CREATE = Record(
    'job', CreateRequest((SnapshotDisk('a', 's', 'v.s'),
                          SnapshotDisk('b', 't', 'w.t'))),
    'uuid', 'guest', 'vda vdb', {'a': '/s', 'b': '/s'},
    {'a': ('v',), 'b': ('w', 'w.1')}, method='snapshot')
NOT_YET = {'a': ('v',), 'b': ('w', 'w.1')}
MOVED = {'a': ('v', 'v.s'), 'b': ('w', 'w.1', 'w.t')}
HALF = {'a': ('v', 'v.s'), 'b': ('w', 'w.1')}


@pytest.mark.parametrize(('state', 'presence', 'live', 'found', 'expected'), [
    (ACCEPTED, ACTIVE, NOT_YET, {}, Do.SNAPSHOT),
    (ACCEPTED, OFF, NOT_YET, {}, Do.SNAPSHOT),
    (ACCEPTED, ACTIVE, NOT_YET, {'job': 'pull'}, 'disk-busy'),
    (ACCEPTED, ACTIVE, NOT_YET, {'age': 60.1}, 'deadline-passed'),
    (ACCEPTED, ACTIVE, MOVED, {'age': 60.1}, Do.FINISH),
    (ACCEPTED, ACTIVE, {'a': ('v',)}, {}, Do.WAIT),
    (ACCEPTED, ACTIVE, {'a': ('v',)}, {'missing': 10}, 'guest-state'),
    (ACCEPTED, GONE, {}, {'missing': 10}, 'guest-state'),
    (RUNNING, ACTIVE, NOT_YET, {}, Do.SNAPSHOT),
    (RUNNING, ACTIVE, NOT_YET, {'age': 61}, Do.WAIT),
    (RUNNING, ACTIVE, NOT_YET, {'age': 61, 'missing': 3},
     'deadline-passed'),
    (RUNNING, ACTIVE, MOVED, {}, Do.FINISH),
    (RUNNING, OFF, MOVED, {}, Do.FINISH),
    (RUNNING, ACTIVE, HALF, {}, 'chain-mismatch'),
    (RUNNING, ACTIVE, MOVED | {'a': OTHER}, {}, 'chain-mismatch')])
def test_create(state: State, presence: Presence,
                live: dict[str, tuple[str, ...]], found: dict[str, Any],
                expected: Do | str) -> None:
    seen = Observation(presence, chains=live, **found)
    assert outcome(decide(replace(CREATE, state=state), seen, LIMITS)) \
        == expected


def test_create_is_aborted_before_it_began() -> None:
    record = replace(CREATE, aborting=True)
    seen = Observation(ACTIVE, chains=NOT_YET)
    assert decide(record, seen, LIMITS).do is Do.ABORTED
    moved = Observation(ACTIVE, chains=MOVED)
    assert decide(record, moved, LIMITS).do is Do.FINISH


def test_mismatch_says_what_was_found_and_expected() -> None:
    error = decide(merge(RUNNING), sight(ACTIVE, OTHER), LIMITS).error
    assert 'v <- v.1 <- v.2 <- v.3' in str(error)
    assert 'expected v <- v.2' in str(error)


@pytest.mark.parametrize(('fields', 'found', 'expected'), [
    ({}, {}, Do.WAIT),
    ({}, {'missing': 11}, 'not-supported'),
    ({'aborting': True}, {}, Do.ABORTED)])
def test_layers_that_cannot_be_told_do_not_hold_a_job_for_ever(
        fields: dict[str, Any], found: dict[str, Any],
        expected: Do | str) -> None:
    seen = sight(OFF, None, unread=NotSupported(reason='is truncated'),
                 **found)
    assert outcome(decide(merge(RUNNING, **fields), seen, LIMITS)) \
        == expected


def test_waiting_for_a_turn_is_told() -> None:
    action = decide(merge(ACCEPTED), sight(ACTIVE, BEFORE, turn=False),
                    LIMITS)
    assert action.condition is Condition.WAITING
    assert 'another merge' in action.note


situations = st.builds(
    sight, st.sampled_from(Presence),
    st.sampled_from([None, BEFORE, AFTER, OTHER]),
    job=st.sampled_from(['', 'commit', 'pull']), ready=st.booleans(),
    verdict=st.sampled_from([None, *Verdict]),
    missing=st.floats(0, 100), age=st.floats(0, 100), turn=st.booleans(),
    canceling=st.booleans())
records = st.builds(
    merge, st.sampled_from([s for s in State if not s.final]),
    incarnation=st.sampled_from([-1, 0, RUN, 6]), started=st.booleans(),
    attempts=st.integers(0, 21), aborting=st.booleans(),
    paused=st.booleans())


@given(records, situations)
def test_no_situation_endangers_a_layer(record: Record,
                                        seen: Observation) -> None:
    action = decide(record, seen, LIMITS)
    live = seen.chains.get('a')
    there = seen.presence is not GONE and live is not None
    match action.do:
        case Do.FLUSH:
            # Only DONE removes layers, and only FLUSH leads there.
            assert (there and live == AFTER) or (
                not there and record.state is FLUSHING)
        case Do.START | Do.MERGE_FILES:
            assert live == BEFORE
            assert not seen.job or seen.presence is OFF
            assert not record.aborting
        case Do.PIVOT:
            assert live == BEFORE and seen.ready and not record.paused
            assert seen.job == record.method and not record.aborting
        case Do.ABORTED:
            assert live == BEFORE and record.aborting
        case Do.FAIL:
            assert action.error is not None
        case Do.SNAPSHOT | Do.FINISH:
            raise AssertionError('not for a merge')
    if there and live == OTHER:
        assert outcome(action) == 'chain-mismatch'
