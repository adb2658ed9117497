# SPDX-License-Identifier: Apache-2.0
"""Whether a running merge gets anywhere: pure arithmetic on samples.

An active commit copies while the guest writes; a guest that writes faster
than the copy is never done.  That is measured here and reported; nothing is
ever given up because of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace

from assisted_snapshots.rpcapi.messages import Condition

#: What QEMU's mirror has in flight at the most, in bytes.
QEMU_BUFFER = 16 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """Progress at one moment; ``total`` grows while a guest writes."""

    at: float
    done: int
    total: int

    @property
    def remaining(self) -> int:
        """Bytes left to copy."""
        return max(0, self.total - self.done)


@dataclass(frozen=True, slots=True)
class Track:
    """All that must be remembered of the samples of one block job.

    :ivar last: the newest sample.
    :ivar moved_at: when the job was last seen to have copied something.
    :ivar least: the first sample with the smallest remainder so far.
    """

    last: Sample
    moved_at: float
    least: Sample


def follow(track: Track | None, sample: Sample) -> Track:
    """Return the track with one more sample; None begins a new one."""
    if track is None:
        return Track(sample, sample.at, sample)
    if sample.done != track.last.done:
        track = replace(track, moved_at=sample.at)
    if sample.remaining < track.least.remaining:
        track = replace(track, least=sample)
    return replace(track, last=sample)


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a job fares, and why in one sentence."""

    condition: Condition = Condition.OK
    note: str = ''


def slack(bandwidth: int) -> float:
    """Return how many seconds a limited job may rest between two steps.

    QEMU copies a buffer full at once and then rests until the limit is
    kept on average.
    """
    return QEMU_BUFFER / bandwidth if bandwidth else 0.0


def judge(track: Track, stall_window: float,
          convergence_window: float) -> Judgement:
    """Judge an unpaused block job.

    It is the guest that keeps a job from converging only where there has
    become more to copy.
    """
    last = track.last
    if not last.remaining:
        return Judgement()
    still = last.at - track.moved_at
    if still >= stall_window:
        return Judgement(Condition.STALLED,
                         f'nothing was copied for {still:.0f} s')
    vain = last.at - track.least.at
    if vain >= convergence_window and last.total > track.least.total:
        return Judgement(
            Condition.NOT_CONVERGING,
            f'the guest writes as fast as the copy goes: in {vain:.0f} s it '
            f'added {last.total - track.least.total} bytes, and '
            f'{last.remaining} remain')
    return Judgement()
