# SPDX-License-Identifier: Apache-2.0
"""Whether a merge gets anywhere, judged by samples alone."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
import pytest

from assisted_snapshots.agent.convergence import follow
from assisted_snapshots.agent.convergence import judge
from assisted_snapshots.agent.convergence import Sample
from assisted_snapshots.agent.convergence import slack
from assisted_snapshots.agent.convergence import Track
from assisted_snapshots.rpcapi.messages import Condition

STALL = 60.0
CONVERGE = 30.0


def followed(samples: Iterable[Sample]) -> Track:
    track = None
    for sample in samples:
        track = follow(track, sample)
    assert track is not None
    return track


def condition(samples: Iterable[Sample]) -> Condition:
    return judge(followed(samples), STALL, CONVERGE).condition


@pytest.mark.parametrize(('samples', 'expected'), [
    ([(0, 0, 100)], Condition.OK),
    # Copies at a steady pace.
    ([(t, t, 1000) for t in range(0, 200, 10)], Condition.OK),
    # Nothing was left to copy.
    ([(0, 0, 0), (500, 0, 0)], Condition.OK),
    ([(0, 7, 7), (500, 7, 7)], Condition.OK),
    # Nothing moves.
    ([(0, 5, 100), (59, 5, 100)], Condition.OK),
    ([(0, 5, 100), (60, 5, 100)], Condition.STALLED),
    # Copies, but the guest writes as much.
    ([(t, t, 100 + t) for t in range(0, 30, 5)], Condition.OK),
    ([(t, t, 100 + t) for t in range(0, 35, 5)], Condition.NOT_CONVERGING),
    # Falls behind.
    ([(t, t, 100 + 2 * t) for t in range(0, 35, 5)],
     Condition.NOT_CONVERGING),
    # Fell behind, then caught up.
    ([(0, 0, 100), (40, 10, 200), (41, 200, 290)], Condition.OK)])
def test_judgement(samples: list[tuple[int, int, int]],
                   expected: Condition) -> None:
    assert condition(Sample(*s) for s in samples) is expected


def test_note_says_why() -> None:
    track = followed([Sample(0, 5, 100), Sample(70, 5, 100)])
    assert '70 s' in judge(track, STALL, CONVERGE).note
    track = followed([Sample(0, 5, 100), Sample(31, 90, 200)])
    note = judge(track, STALL, CONVERGE).note
    assert 'added 100 bytes' in note and '110 remain' in note


steps = st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 1000),
                           st.integers(0, 1000)), min_size=1, max_size=50)


def history(deltas: list[tuple[float, int, int]]) -> list[Sample]:
    """Samples of a job that moved and grew by so much in each step."""
    found = [Sample(0.0, 0, 5000)]
    for seconds, moved, grown in deltas:
        last = found[-1]
        total = last.total + grown
        found.append(Sample(last.at + seconds, min(total, last.done + moved),
                            total))
    return found


@given(steps)
def test_track_remembers_what_matters(deltas: list[tuple[float, int, int]],
                                      ) -> None:
    """The few numbers kept say the same as the whole history would."""
    samples = history(deltas)
    track = followed(samples)
    assert track.last == samples[-1]
    assert track.least == min(samples, key=lambda s: (s.remaining, s.at))
    still_from = len(samples) - 1
    while still_from and samples[still_from - 1].done == samples[-1].done:
        still_from -= 1
    assert track.moved_at == samples[still_from].at


@given(steps)
def test_a_job_that_gains_ground_is_never_blamed(
        deltas: list[tuple[float, int, int]]) -> None:
    gaining = [(seconds, grown + 1, grown)
               for seconds, _moved, grown in deltas]
    assert condition(history(gaining)) is Condition.OK


@given(steps)
def test_blame_has_a_reason(deltas: list[tuple[float, int, int]]) -> None:
    samples = history(deltas)
    last = samples[-1]
    match condition(samples):
        case Condition.STALLED:
            assert all(s.done == last.done for s in samples
                       if s.at > last.at - STALL)
        case Condition.NOT_CONVERGING:
            earlier = [s.remaining for s in samples
                       if s.at <= last.at - CONVERGE]
            assert min(earlier) <= last.remaining
            assert last.total > samples[0].total


def test_a_limited_job_may_rest() -> None:
    assert slack(0) == 0.0
    assert slack(1 << 20) == 16.0
