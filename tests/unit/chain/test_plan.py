# SPDX-License-Identifier: Apache-2.0
"""Plans, tried on every small chain and on random histories.

A chain is modelled as what each layer holds of a disk of a few clusters, so
that a plan is judged by content: whatever the active layer and every
snapshot that stays showed before, they show afterwards.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
import functools
import itertools
from typing import Any

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import plan
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import Method
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.chain.value import VolumeState

CLUSTERS = 4
ALLOWED = [frozenset(c) for c in (
    (Direction.DOWN,), (Direction.UP,), tuple(Direction))]

Disk = dict[int, int]


def state(costs: Collection[int], base: Format = Format.QCOW2) -> VolumeState:
    """Make a volume with a layer per cost and a snapshot per overlay."""
    layers: list[Layer] = []
    for i, cost in enumerate(costs):
        layers.append(Layer(
            f'volume-1.s{i}' if i else 'volume-1',
            Format.QCOW2 if i else base, 4096, cost,
            layers[-1].name if layers else None))
    return VolumeState('volume-1', Chain(tuple(layers)), {
        f's{i}': layer.name for i, layer in enumerate(layers) if i})


def small_states(most: int = 5) -> Iterator[VolumeState]:
    for depth in range(2, most + 1):
        for costs in itertools.product((0, 1, 2), repeat=depth):
            for base in Format:
                yield state(costs, base)


def check(before: VolumeState, made: plan.MergePlan, attached: bool,
          allowed: Collection[Direction]) -> None:
    """Check what must hold of every plan."""
    names = before.chain.names
    at = names.index(made.merged[0])
    assert made.before == names
    assert names[at:at + len(made.merged)] == made.merged
    assert len(made.merged) >= 2
    assert made.direction in allowed
    assert made.survivor in (made.merged[0], made.merged[-1])
    assert made.removed == tuple(
        n for n in made.merged if n != made.survivor)
    assert made.after == tuple(n for n in names if n not in made.removed)
    if made.direction is Direction.DOWN:
        assert made.survivor == made.merged[0]
    else:
        assert made.survivor == made.merged[-1]
    includes_active = made.merged[-1] == names[-1]
    if attached and not includes_active:
        assert made.direction is Direction.DOWN
    check_method(made, includes_active, attached)
    check_neighbours(made)
    check_cost(before, made, attached and not includes_active, allowed)
    # Every snapshot that stays is an overlay of its own, on another layer.
    assert len(set(made.snapshots_after.values())) == len(
        made.snapshots_after)
    assert set(made.snapshots_after.values()) == set(made.after[1:])
    assert made.snapshots_before == before.snapshots
    assert set(made.formats) == set(names)


def check_method(made: plan.MergePlan, includes_active: bool,
                 attached: bool) -> None:
    expected = {(Direction.DOWN, True): Method.ACTIVE_COMMIT,
                (Direction.DOWN, False): Method.COMMIT,
                (Direction.UP, True): Method.PULL,
                (Direction.UP, False): Method.REBASE}
    assert made.method is expected[made.direction, includes_active]
    assert not (attached and made.method is Method.REBASE)
    assert made.changes_active == (made.method is Method.ACTIVE_COMMIT)


def check_neighbours(made: plan.MergePlan) -> None:
    place = made.after.index(made.survivor)
    assert made.new_backing == (made.after[place - 1] if place else None)
    assert made.child == (made.after[place + 1]
                          if place + 1 < len(made.after) else None)


def check_cost(before: VolumeState, made: plan.MergePlan, only_down: bool,
               allowed: Collection[Direction]) -> None:
    size = {layer.name: layer.allocated for layer in before.chain.layers}
    down = sum(size[n] for n in made.merged[1:])
    up = sum(size[n] for n in made.merged[:-1])
    possible = {down} if only_down else {
        {Direction.DOWN: down, Direction.UP: up}[d] for d in allowed}
    assert made.copy_bytes == min(possible)
    assert made.copy_bytes == (
        down if made.direction is Direction.DOWN else up)
    assert made.other_bytes == down + up - made.copy_bytes
    if down == up and Direction.DOWN in allowed:
        assert made.direction is Direction.DOWN


@dataclass
class Model:
    """A chain with content."""

    layers: dict[str, Disk]
    snapshots: dict[str, str]
    order: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, volume: VolumeState) -> Model:
        """Give every layer content that no other has."""
        content = {
            layer.name: {c: 100 * i + c for c in range(CLUSTERS)
                         if (i + 1) >> c & 1 or i == 0}
            for i, layer in enumerate(volume.chain.layers)}
        return cls(content, dict(volume.snapshots),
                   list(volume.chain.names))

    def shown(self, top: int) -> Disk:
        """What the disk shows through layers 0..top-1."""
        seen: Disk = {}
        for name in self.order[:top]:
            seen |= self.layers[name]
        return seen

    def views(self) -> dict[str, Disk]:
        """What the active layer and every snapshot show."""
        views = {'active': self.shown(len(self.order))}
        for snapshot, file in self.snapshots.items():
            views[snapshot] = self.shown(self.order.index(file))
        return views

    def carry_out(self, made: plan.MergePlan) -> None:
        merged: Disk = {}
        for name in made.merged:
            merged |= self.layers[name]
        self.layers[made.survivor] = merged
        for name in made.removed:
            del self.layers[name]
        self.order = list(made.after)
        self.snapshots = dict(made.snapshots_after)

    def state(self) -> VolumeState:
        below = None
        layers = []
        for name in self.order:
            layers.append(Layer(name, Format.QCOW2, 4096,
                                len(self.layers[name]), below))
            below = name
        return VolumeState('volume-1', Chain(tuple(layers)), self.snapshots)


def test_delete_on_every_small_chain() -> None:
    tried = 0
    for before in small_states():
        for snapshot, attached, allowed in itertools.product(
                before.snapshots, (False, True), ALLOWED):
            overlay = before.snapshots[snapshot]
            mid = overlay != before.chain.active.name
            if attached and mid and Direction.DOWN not in allowed:
                with pytest.raises(errors.NoDirection, match='pulls only'):
                    plan.plan_delete(before, snapshot, attached=attached,
                                     allowed=allowed)
                continue
            made = plan.plan_delete(before, snapshot, attached=attached,
                                    allowed=allowed)
            check(before, made, attached, allowed)
            assert made.merged[-1] == overlay
            assert len(made.merged) == 2
            assert set(made.snapshots_after) == (
                set(before.snapshots) - {snapshot})
            tried += 1
    assert tried > 5000


def test_content_after_a_delete_on_every_small_chain() -> None:
    for before in small_states(4):
        for snapshot, attached in itertools.product(
                before.snapshots, (False, True)):
            model = Model.of(before)
            wanted = model.views()
            del wanted[snapshot]
            model.carry_out(plan.plan_delete(before, snapshot,
                                             attached=attached))
            assert model.views() == wanted


def test_flatten_on_every_small_chain() -> None:
    for before in small_states():
        for attached, allowed in itertools.product((False, True), ALLOWED):
            made = plan.plan_flatten(before, attached=attached,
                                     allowed=allowed)
            assert made is not None
            check(before, made, attached, allowed)
            assert made.merged == made.before
            assert made.after == (made.survivor,)
            assert made.snapshots_after == {}
            model = Model.of(before)
            wanted = {'active': model.views()['active']}
            model.carry_out(made)
            assert model.views() == wanted


def test_flatten_of_a_single_layer_is_nothing() -> None:
    assert plan.plan_flatten(state([5])) is None


@given(st.lists(st.tuples(st.sampled_from(['create', 'delete', 'write']),
                          st.integers(0, 99), st.booleans()), max_size=40))
@settings(max_examples=300)
def test_content_over_a_random_history(
        steps: list[tuple[str, int, bool]]) -> None:
    model = Model({'volume-1': {0: 1}}, {}, ['volume-1'])
    for i, (step, pick, attached) in enumerate(steps):
        wanted = model.views()
        if step == 'write':
            model.layers[model.order[-1]][pick % CLUSTERS] = 1000 + i
            wanted['active'][pick % CLUSTERS] = 1000 + i
        elif step == 'create':
            wanted[f's{i}'] = wanted['active']
            model.order.append(f'volume-1.s{i}')
            model.layers[f'volume-1.s{i}'] = {}
            model.snapshots[f's{i}'] = f'volume-1.s{i}'
        elif model.snapshots:
            now = model.state()
            victim = now.ordered_snapshots()[pick % len(model.snapshots)]
            made = plan.plan_delete(now, victim, attached=attached)
            check(now, made, attached, plan.BOTH)
            model.carry_out(made)
            del wanted[victim]
        assert model.views() == wanted


def test_the_active_file_that_must_stay_does_on_every_small_chain() -> None:
    for before in small_states():
        for attached, allowed in itertools.product((False, True), ALLOWED):
            last = len(before.chain.layers) - 1
            options: Any = {'attached': attached, 'allowed': allowed,
                       'keep_active': True}
            for name in ('', *before.snapshots):
                top = (before.chain.index(before.snapshots[name])
                       if name else last)
                wanted = Direction.UP if top == last else Direction.DOWN
                make = (functools.partial(plan.plan_delete, before, name)
                        if name else functools.partial(
                            plan.plan_flatten, before))
                if wanted not in allowed:
                    with pytest.raises(errors.NoDirection, match='to stay'):
                        make(**options)
                    continue
                made = make(**options)
                assert made is not None
                assert made.after[-1] == before.chain.active.name
                check(before, made, attached, {wanted})


def test_fewer_bytes_win() -> None:
    big_base = state([1 << 32, 1 << 24])
    assert plan.plan_delete(big_base, 's1').direction is Direction.DOWN
    full_overlay = state([1 << 24, 1 << 32])
    made = plan.plan_delete(full_overlay, 's1', attached=True)
    assert made.direction is Direction.UP
    assert made.method is Method.PULL
    assert (made.copy_bytes, made.other_bytes) == (1 << 24, 1 << 32)
    assert made.after == ('volume-1.s1',)
    assert made.new_backing is None


def test_a_snapshot_follows_its_overlay_upwards() -> None:
    made = plan.plan_delete(state([9, 1, 9]), 's2')
    assert made.removed == ('volume-1.s1',)
    assert made.snapshots_after == {'s1': 'volume-1.s2'}


def test_delete_of_an_unknown_snapshot() -> None:
    with pytest.raises(errors.SnapshotNotFound, match='no snapshot s7'):
        plan.plan_delete(state([1, 1]), 's7')


@pytest.mark.parametrize(('file', 'reason'), [
    ('volume-1', 'no layer below'),
    ('volume-1.gone', 'no layer below'),
    ('volume-1.s1', 'another one too'),
])
def test_delete_of_a_snapshot_without_an_overlay_of_its_own(
        file: str, reason: str) -> None:
    sound = state([1, 1, 1])
    odd = VolumeState('volume-1', sound.chain,
                      {**sound.snapshots, 's2': file})
    with pytest.raises(errors.Disagreement, match=reason) as caught:
        plan.plan_delete(odd, 's2')
    assert file in str(caught.value)


def test_no_direction_says_why() -> None:
    with pytest.raises(errors.NoDirection, match='lower layer') as caught:
        plan.plan_delete(state([1, 1]), 's1', allowed=())
    assert 'volume-1, volume-1.s1' in str(caught.value)
