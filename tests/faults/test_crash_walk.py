# SPDX-License-Identifier: Apache-2.0
"""Every operation, killed at every step, recovered, and read back.

The steps are those of an uncut run, so a new step is walked by itself.  A
kill comes in front of a step, or inside of qemu-img in front of one of its
changes to a file; then qemu-img dies too.  Afterwards everything must read
as before the operation or as after it, and repeating it must end well.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from dataclasses import replace
import functools
import multiprocessing
from pathlib import Path

import pytest

from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.plan import Method
from assisted_snapshots.chain.value import Format
from tests.faults import killer
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import MIB
from tests.images import Write

# How many of an operation's changes to files are walked, evenly spread.
CHANGES = 8


@dataclass(frozen=True)
class Case:
    """One operation on one chain.

    :ivar layers: what is written, with a snapshot taken between two of them:
        s1, s2 and so on.
    :ivar act: the operation.
    :ivar expect: does the same to the model.
    :ivar method: of the merge it must turn out to be.
    :ivar also: files that it makes beside those of the volume.
    :ivar keep: the active file must be the same afterwards.
    """

    layers: tuple[tuple[Write, ...], ...]
    act: Callable[[Operations, Path], object]
    expect: Callable[[Disk], object]
    method: Method | None = None
    subject: str = ''
    also: frozenset[str] = frozenset()
    keep: bool = False


def some(first: int, count: int, byte: int) -> Write:
    return first * CLUSTER, count * CLUSTER, byte


# A layer of many clusters, of few, and one that hides data with zeroes.
MUCH = (some(0, 10, 1), (15 * CLUSTER + 512, 4096, 2))
MUCH2 = (some(3, 9, 3),)
LITTLE = (some(5, 1, 4), (9 * CLUSTER + 4096, 1024, 5), some(12, 2, 7))
ZEROES = (some(4, 2, 6), some(6, 2, 0))


def delete(snapshot_id: str, method: Method,
           *layers: tuple[Write, ...]) -> Case:
    return Case(layers, lambda ops, _: ops.delete(snapshot_id),
                lambda disk: disk.snapshots.pop(snapshot_id), method,
                snapshot_id)


def keep(case: Case) -> Case:
    return replace(case, keep=True)


def flatten(*layers: tuple[Write, ...]) -> Case:
    return Case(layers, lambda ops, _: ops.flatten(delete_snapshots=True),
                lambda disk: disk.snapshots.clear())


def clone(target: str, form: Format) -> Case:
    return Case(
        (MUCH, ZEROES, LITTLE),
        lambda ops, folder: ops.clone('s2', folder / target, form, 2 * MIB),
        lambda disk: None, also=frozenset({
            target, f'{target}.journal', f'{target}.lock'}))


def _take(disk: Disk) -> None:
    disk.snapshots['s9'] = bytes(disk.now)


def _revert(disk: Disk) -> None:
    disk.now[:] = disk.snapshots['s2']


def _extend(disk: Disk) -> None:
    disk.now += bytes(MIB)


CASES = {
    'create': Case((MUCH, LITTLE), lambda ops, _: ops.create('s9'), _take),
    'create-first': Case((MUCH,), lambda ops, _: ops.create('s9'), _take),
    'delete-down-only': delete('s1', Method.ACTIVE_COMMIT, MUCH, ZEROES),
    'delete-up-only': delete('s1', Method.PULL, LITTLE, MUCH),
    'delete-down-newest': delete('s2', Method.ACTIVE_COMMIT,
                                 MUCH, MUCH2, ZEROES),
    'delete-up-newest': delete('s2', Method.PULL, MUCH, ZEROES, MUCH2),
    'delete-down-middle': delete('s2', Method.COMMIT,
                                 MUCH, MUCH2, ZEROES, LITTLE),
    'delete-up-middle': delete('s2', Method.REBASE,
                               MUCH, ZEROES, MUCH2, LITTLE),
    'delete-down-oldest': delete('s1', Method.COMMIT, MUCH, ZEROES, LITTLE),
    'delete-up-oldest': delete('s1', Method.REBASE, LITTLE, MUCH, LITTLE),
    'delete-keep-only': keep(delete('s1', Method.PULL, MUCH, ZEROES)),
    'delete-keep-newest': keep(delete('s2', Method.PULL,
                                      MUCH, MUCH2, ZEROES)),
    'delete-keep-oldest': keep(delete('s1', Method.COMMIT,
                                      LITTLE, MUCH, LITTLE)),
    'flatten-down': flatten(MUCH, MUCH2[:0], LITTLE),
    'flatten-up': flatten(LITTLE, LITTLE, MUCH),
    'clone-raw': clone('volume-2', Format.RAW),
    'clone-qcow2': clone('volume-2', Format.QCOW2),
    'revert': Case((MUCH, ZEROES, LITTLE), lambda ops, _: ops.revert('s2'),
                   _revert),
    'extend': Case((MUCH, LITTLE), lambda ops, _: ops.extend(2 * MIB),
                   _extend),
}
# Encrypted layers cannot be cloned to raw, and are not pulled onto a new
# backing file; that every kind of command takes the secret is what counts.
LUKS = ('create', 'delete-down-middle', 'delete-up-only', 'delete-keep-only',
        'delete-keep-oldest', 'flatten-down', 'clone-qcow2', 'revert',
        'extend')
WALKS = [(kind, name) for kind in ('raw', 'qcow2') for name in CASES] + [
    ('luks', name) for name in LUKS]


@pytest.fixture(scope='module')
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(
            mp_context=multiprocessing.get_context('fork')) as workers:
        yield workers


@pytest.mark.parametrize('kind, name', WALKS,
                         ids=[f'{kind}-{name}' for kind, name in WALKS])
def test_killed_anywhere_everything_reads_as_before_or_after(
        kind: str, name: str, tmp_path: Path, killer_library: Path,
        pool: ProcessPoolExecutor) -> None:
    case = CASES[name]
    (tmp_path / 'made').mkdir()
    with killer.loaded(killer_library):
        before = make(Disk(tmp_path / 'made', kind), case)
        if case.method:
            assert before.operations(keep_active=case.keep).plan(
                case.subject).method is case.method
        uncut = before.copy(tmp_path / 'uncut')
        steps, changes = killer.count(
            killer_library, tmp_path / 'uncut.count',
            functools.partial(run, case, uncut))
        expect(case, uncut)
    assert len(steps) > 3, 'the walk sees no steps'
    assert changes > 0, 'the walk sees no changes'
    cuts = [('step', number) for number in range(len(steps))] + [
        ('change', number) for number in spread(changes)]
    list(pool.map(functools.partial(
        cut_and_recover, before, name, killer_library), cuts))


def make(disk: Disk, case: Case) -> Disk:
    """Make the volume of a case, as upstream would hand it over."""
    disk.make()
    for number, layer in enumerate(case.layers):
        if number:
            disk.take(f's{number}')
        if layer:
            disk.write(*layer)
    return disk


def run(case: Case, disk: Disk,
        observer: Callable[[str], None]) -> object:
    return case.act(disk.operations(observer=observer, keep_active=case.keep),
                    disk.files.folder)


def spread(changes: int) -> list[int]:
    """Return which changes are walked: first, last, and some between."""
    most = min(CHANGES, changes) - 1
    return sorted({1 + round(i * (changes - 1) / max(1, most))
                   for i in range(most + 1)})


def cut_and_recover(before: Disk, name: str, library: Path,
                    cut: tuple[str, int]) -> None:
    """Kill a copy's operation, recover it, read all, repeat it."""
    case = CASES[name]
    where, number = cut
    disk = before.copy(before.files.folder.with_name(f'{where}-{number}'))
    act = functools.partial(run, case, disk)
    with killer.loaded(library):
        if where == 'step':
            killer.kill_at_step(act, number)
        else:
            killer.kill_at_change(
                library, disk.files.folder.with_suffix('.count'), act,
                number)
        recover(disk)
        if not ended(case, disk):
            disk.verify()
            act(lambda _step: None)
        expect(case, disk)


def recover(disk: Disk) -> None:
    """Recover twice; the second time there is nothing left to do."""
    told = disk.operations().recover(dry_run=True)
    assert disk.operations().recover() == told
    assert disk.operations().recover() == []


def ended(case: Case, disk: Disk) -> bool:
    """Tell whether an operation has had its effect."""
    state = disk.operations().state()
    after = disk_like(case, disk)
    if case.also:
        return all((disk.files.folder / name).exists()
                   for name in case.also)
    if state.snapshots.keys() != after.snapshots.keys():
        assert state.snapshots.keys() == disk.snapshots.keys()
        return False
    if after.snapshots.keys() != disk.snapshots.keys():
        return True
    return disk.content(state.chain.active.name) == after.now


def disk_like(case: Case, disk: Disk) -> Disk:
    """Return the same files with what must be in them afterwards."""
    after = Disk(disk.files.folder, disk.kind)
    after.now = bytearray(disk.now)
    after.snapshots = dict(disk.snapshots)
    case.expect(after)
    return after


def expect(case: Case, disk: Disk) -> None:
    """See that everything reads as it must after the operation."""
    after = disk_like(case, disk)
    assert after.operations().state().snapshots.keys() \
        == after.snapshots.keys()
    after.verify(also=case.also)
    for name in case.also:
        if not name.endswith(('.journal', '.lock')):
            copy = Disk(disk.files.folder, disk.kind, name=name)
            copy.now = bytearray(disk.snapshots['s2'] + bytes(MIB))
            found = copy.unpinned().state().chain
            assert copy.content(name, found.active.format) == copy.now
