# SPDX-License-Identifier: Apache-2.0
"""Deleting snapshots of a running guest, in every direction.

Where the layers end up says which direction was taken; that the smaller one
was copied, the plan has to say before and the files show afterwards.
"""

from __future__ import annotations

from assisted_snapshots.rpcapi.messages import State
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SMALL
from tests.functional.ops.ground import Watched


def cheapest(one: Watched, snapshot: str, up: bool) -> None:
    """See that a plan copies the smaller one of two layers."""
    plan = one.operations().plan(snapshot)
    at = one.live.index(one.volume.layer(snapshot).name)
    below, overlay = (one.allocated(n) for n in one.live[at - 1:at + 1])
    # The guest goes on writing to the active layer.
    assert plan.copy_bytes <= min(below, overlay)
    assert plan.copy_bytes < plan.other_bytes
    assert (below < overlay) is up


def test_small_overlay_is_committed_to_a_large_base(
        ground: Ground) -> None:
    for one in ground.pair():
        snapshot, = one.layers(LARGE, SMALL)
        cheapest(one, snapshot, up=False)
        done(one.delete(snapshot), 'active-commit')
        assert one.live == one.names('')
        one.writer.write_more(FEW)


def test_small_base_is_pulled_into_a_large_overlay(ground: Ground) -> None:
    for one in ground.pair():
        snapshot, = one.layers(SMALL, LARGE)
        cheapest(one, snapshot, up=True)
        done(one.delete(snapshot), 'pull')
        assert one.live == one.names(snapshot)
        assert one.volume.info == {'active': one.live[0]}
        # The volume lives on in its overlay: all goes on as before.
        second = one.grow(FEW, one.create)
        one.writer.write_more(FEW)
        one.delete(second)


def test_snapshots_below_the_active_layer(ground: Ground) -> None:
    """Mid-chain there is one way; on top a pull to a base is another."""
    for one in ground.pair():
        s1, s2, s3 = one.layers(LARGE, SMALL, LARGE, SMALL)
        done(one.delete(s2), 'commit')
        assert one.live == one.names('', s1, s3)
        done(one.delete(s1), 'commit')
        assert one.live == one.names('', s3)
        s4 = one.grow(FEW, one.create)
        one.fill(LARGE)
        cheapest(one, s4, up=True)
        done(one.delete(s4), 'pull')
        assert one.live == one.names('', s4)
        one.writer.write_more(FEW)


def test_creates_and_deletes_in_mixed_order(ground: Ground) -> None:
    one = ground.one('raw')
    s1, s2, s3 = one.layers(SMALL, SMALL, SMALL, SMALL)
    one.delete(s2)
    s4 = one.create()
    s5 = one.grow(FEW, one.create)
    one.writer.write_more(FEW)
    one.delete(s5)
    one.delete(s1)
    s6 = one.create()
    one.delete(s3)
    assert list(one.expected) == [s4, s6]
    assert one.operations().state().ordered_snapshots() == (s4, s6)


def test_two_snapshots_of_the_same_moment(ground: Ground) -> None:
    """What little lies between them is kept apart all the same."""
    one = ground.one()
    s1 = one.grow(FEW, one.create)
    s2, s3 = one.create(), one.create()
    one.writer.write_more(FEW)
    for snapshot in (s1, s3, s2):
        one.delete(snapshot)
    assert one.volume.info.keys() == {'active'}


def test_transient_guest(ground: Ground) -> None:
    one = ground.one(persistent=False)
    s1, s2 = one.layers(LARGE, SMALL, SMALL)
    one.delete(s1)
    one.delete(s2)
    assert one.live == one.names('')


def test_repeated_delete_touches_no_other_layer(ground: Ground) -> None:
    one = ground.one()
    s1, s2, s3 = one.layers(SMALL, SMALL, SMALL, SMALL)
    request = one.request(one.operations().plan(s2), bandwidth=0)
    first = one.delete(s2)
    again = one.unchanged(ground.client.merge, request)
    assert (again.id, again.state) == (first.id, first.state)
    assert list(one.expected) == [s1, s3]


def test_two_guests_at_the_same_time(ground: Ground) -> None:
    both = [ground.one('raw'), ground.one('qcow2')]
    snapshots = [one.layers(SMALL, SMALL)[0] for one in both]
    ends = [ground.later(one.delete, s)
            for one, s in zip(both, snapshots, strict=True)]
    for end in ends:
        assert end.result(60).state is State.DONE
