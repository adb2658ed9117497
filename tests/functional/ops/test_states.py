# SPDX-License-Identifier: Apache-2.0
"""Guests that do not run: paused ones, and defined ones that are off."""

from __future__ import annotations

import uuid

import libvirt
import pytest

from assisted_snapshots.chain.errors import GuestFailed
from tests.functional.lab import waiting
from tests.functional.lab.content import Bounds
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SMALL
from tests.functional.ops.ground import Watched


def take(one: Watched, bounds: Bounds, quiesce: str = 'try') -> str:
    """Take a snapshot of a guest that writes nothing; its label."""
    snapshot = str(uuid.uuid4())
    label = one.operations().create(snapshot, quiesce)
    one.expected[snapshot] = bounds
    return label


def newest(one: Watched) -> str:
    """The newest snapshot."""
    return list(one.expected)[-1]


def pause(one: Watched) -> Bounds:
    """Pause the guest; where its disk ends."""
    lowest = one.writer.progress().acknowledged
    one.machine.suspend()
    # A record in flight may be on the disk, not acknowledged yet.
    return Bounds(lowest, 1 << 62)


def test_paused_guest(ground: Ground) -> None:
    """Every direction while the processors stand still."""
    one = ground.one()
    s1, s2 = one.layers(LARGE, SMALL, SMALL)
    bounds = pause(one)
    with pytest.raises(GuestFailed, match='paused') as caught:
        one.unchanged(take, one, bounds, 'require')
    assert caught.value.fields['code'] == 'quiesce-failed'
    assert take(one, bounds) == 'crash-consistent'
    assert 'paused' in one.jobs[-1].note
    s3 = newest(one)
    done(one.delete(s2), 'commit')
    done(one.delete(s3), 'active-commit')
    assert one.live == one.names('', s1)
    done(one.delete(s1), 'active-commit')
    assert one.live == one.names('')
    assert one.machine.domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    one.machine.resume()
    s4 = one.create()
    s5 = one.grow(FEW, one.create)
    one.fill(LARGE)
    pause(one)
    done(one.delete(s5), 'pull')
    one.machine.resume()
    one.writer.write_more(FEW)
    assert one.live == one.names('', s5)
    assert list(one.expected) == [s4]


def power_off(*all_: Watched) -> None:
    """Let the guest of these volumes power itself off."""
    machine = all_[0].machine
    for one in all_:
        one.stop()
    machine.run('(sleep 0.1; echo o >/proc/sysrq-trigger) '
                '</dev/null >/dev/null 2>&1 &')
    waiting.until(lambda: not machine.active(), 'the power going off')


def power_on(*all_: Watched) -> None:
    """Boot the guest as it is defined and go on writing."""
    all_[0].machine.start()
    for one in all_:
        assert one.live == one.operations().state().chain.names
        assert one.last is not None
        one.writer.start(after=one.last.highest)
        one.last = None


def test_shut_off_guest(ground: Ground) -> None:
    """Create and every commit, then the guest boots on the result."""
    both = ground.pair()
    made = [one.layers(LARGE, SMALL, SMALL) for one in both]
    power_off(*both)
    for one, (s1, s2) in zip(both, made, strict=True):
        assert one.last is not None
        assert take(one, one.last, 'require') == 'filesystem-consistent'
        s3 = newest(one)
        assert one.defined() == one.names(s3)[0]
        done(one.delete(s2), 'commit')
        assert one.defined() == one.names(s3)[0]
        assert one.operations().state().chain.names == one.names('', s1, s3)
        done(one.delete(s3), 'active-commit')
        assert one.defined() == one.names(s1)[0]
    power_on(*both)
    for one, (s1, _s2) in zip(both, made, strict=True):
        assert one.live == one.names('', s1)
        one.writer.write_more(FEW)


def test_shut_off_guest_is_pulled_and_flattened(ground: Ground) -> None:
    both = ground.pair()
    made = [one.layers(SMALL, SMALL, LARGE) for one in both]
    power_off(*both)
    for one, (s1, s2) in zip(both, made, strict=True):
        done(one.delete(s2), 'pull')
        assert one.operations().state().chain.names == one.names('', s2)
        done(one.delete(s1), 'pull')
        assert one.operations().state().chain.names == one.names(s2)
        assert one.defined() == one.names(s2)[0]
    power_on(*both)
    for one in both:
        one.layers(SMALL, SMALL)
    power_off(*both)
    for one, (_s1, s2) in zip(both, made, strict=True):
        done(one.flatten(), 'active-commit')
        assert one.defined() == one.names(s2)[0]
    power_on(*both)
    for one in both:
        assert len(one.live) == 1
        one.writer.write_more(FEW)


def test_guest_whose_plug_was_pulled_is_crash_consistent(
        ground: Ground) -> None:
    one = ground.one()
    one.writer.write_more(FEW)
    one.stop()
    one.machine.destroy()
    assert one.last is not None
    with pytest.raises(GuestFailed) as caught:
        one.operations().create(str(uuid.uuid4()), 'require')
    assert caught.value.fields['code'] == 'quiesce-failed'
    assert take(one, one.last) == 'crash-consistent'
    power_on(one)
    one.writer.write_more(FEW)
