# SPDX-License-Identifier: Apache-2.0
"""One snapshot of two volumes, cut short anywhere.

Whatever dies, afterwards either both volumes have the snapshot, with the
content of the moment, or neither has, and it can be taken again.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.operations import create_together
from assisted_snapshots.chain.operations import Operations
from tests.faults.lab import Died
from tests.faults.lab import dies_at
from tests.faults.qemu import Qemu
from tests.faults.qemu import QemuGuest
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import MIB

NAMES = ('volume-1', 'volume-2')


class Guest(QemuGuest):
    """A guest's disk under its volume's own id."""

    def chain(self, volume_id: str) -> tuple[str, ...] | None:
        return self.qemu.layers


class Pair:
    """Two volumes of one guest, each disk in a QEMU of its own."""

    def __init__(self, folder: Path) -> None:
        self.disks = [Disk(folder, 'raw', MIB, name) for name in NAMES]
        for disk in self.disks:
            disk.make()
            disk.write((0, CLUSTER, 1))
        self.qemus = [Qemu(disk) for disk in self.disks]
        self.guests = [Guest(qemu) for qemu in self.qemus]
        self.when: Callable[[str], None] = lambda _moment: None
        self.asked: list[tuple[tuple[str, str, str], ...]] = []

    def operations(self, observer: Callable[[str], None] = lambda _step: None,
                   ) -> list[Operations]:
        return [disk.operations(guest=guest, observer=observer)
                for disk, guest in zip(self.disks, self.guests, strict=True)]

    def take(self, observer: Callable[[str], None] = lambda _step: None,
             ) -> str:
        return create_together(
            [(one, 's1') for one in self.operations(observer)],
            self.create_all, 'off')

    def create_all(self, disks: tuple[tuple[str, str, str], ...],
                   quiesce: str) -> str:
        """Move both or none, as QEMU's transaction does."""
        self.asked.append(disks)
        self.when('before')
        if any(not (disk.files.folder / new).exists()
               for disk, (_, _, new) in zip(self.disks, disks, strict=True)):
            raise errors.GuestFailed(volume='1', code='layer-missing',
                                     reason='an overlay is missing')
        for guest, (volume_id, snapshot_id, new) in zip(
                self.guests, disks, strict=True):
            guest.create(volume_id, snapshot_id, new, quiesce)
        self.when('after')
        return 'filesystem-consistent'

    def recover(self) -> None:
        for one in self.operations():
            one.recover()
            assert one.recover() == []

    def taken(self) -> bool:
        """Tell whether there is the snapshot: of both or of none."""
        found = {'s1' in one.state().snapshots for one in self.operations()}
        assert len(found) == 1
        return found.pop()

    def write(self, byte: int) -> None:
        for qemu in self.qemus:
            qemu.write((2 * CLUSTER, CLUSTER, byte))

    def noted(self) -> None:
        for disk in self.disks:
            disk.snapshots['s1'] = bytes(disk.now)

    def verify(self) -> None:
        for qemu in self.qemus:
            qemu.quit()
        files = {path.name for path in self.disks[0].files.folder.iterdir()}
        for disk in self.disks:
            disk.verify(also={name for name in files
                              if not disk.files.owns(name)})

    def kill(self) -> None:
        for qemu in self.qemus:
            qemu.kill()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[[], Pair]]:
    made: list[Pair] = []

    def make() -> Pair:
        folder = tmp_path / f'share{len(made)}'
        folder.mkdir()
        made.append(Pair(folder))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def test_both_at_one_moment(pair: Callable[[], Pair]) -> None:
    one = pair()
    one.write(5)
    one.noted()
    assert one.take() == 'filesystem-consistent'
    assert one.asked == [(('1', 's1', 'volume-1.s1'),
                          ('2', 's1', 'volume-2.s1'))]
    one.write(6)
    one.verify()


def test_the_callers_death_at_every_step(pair: Callable[[], Pair]) -> None:
    steps: list[str] = []
    pair().take(steps.append)
    outcomes = set()
    for again in (False, True):
        for number in range(len(steps)):
            one = pair()
            one.noted()
            with pytest.raises(Died):
                one.take(dies_at(number))
            moved = all(qemu.layers != (name,)
                        for qemu, name in zip(one.qemus, NAMES, strict=True))
            one.write(7)
            if again:
                if not moved:
                    one.noted()
                one.take()
            else:
                one.recover()
                assert one.taken() == moved
                if not moved:
                    one.noted()
                    one.take()
            outcomes.add(moved)
            one.write(8)
            one.verify()
            one.kill()
    assert outcomes == {True, False}


@pytest.mark.parametrize('moment', ['before', 'after'])
def test_a_lost_answer(pair: Callable[[], Pair], moment: str) -> None:
    one = pair()
    one.noted()

    def die(now: str) -> None:
        if now == moment:
            raise Died

    one.when = die
    with pytest.raises(Died):
        one.take()
    one.recover()
    assert one.taken() == (moment == 'after')
    assert len(one.asked) == 1
    if not one.taken():
        one.when = lambda _moment: None
        with pytest.raises(errors.GuestFailed, match='is missing'):
            one.create_all(one.asked[0], 'off')  # a request still on its way
        for disk in one.disks:
            disk.snapshots.clear()
    one.write(9)
    one.verify()


@pytest.mark.parametrize('error', [errors.GuestFailed, errors.GuestRefused])
@pytest.mark.parametrize('moment', ['before', 'after'])
def test_a_failure(pair: Callable[[], Pair], moment: str,
                   error: type[errors.GuestFailed]) -> None:
    one = pair()
    one.noted()

    def fail(now: str) -> None:
        if now == moment:
            raise error(volume='1', reason='it did not work', code='x')

    one.when = fail
    if moment == 'after':
        assert one.take() == 'crash-consistent'
    else:
        with pytest.raises(error):
            one.take()
        for disk in one.disks:
            disk.snapshots.clear()
    for operations in one.operations():
        assert operations.recover() == []
    one.write(9)
    one.verify()


def test_a_guest_that_dies_before_it_moved(pair: Callable[[], Pair]) -> None:
    one = pair()

    def die(_moment: str) -> None:
        one.kill()
        raise errors.GuestFailed(volume='1', code='x', reason='it is gone')

    one.when = die
    with pytest.raises(errors.GuestFailed):
        one.take()
    assert not one.taken()
    one.verify()


def test_refused_before_anything_is_touched(pair: Callable[[], Pair]) -> None:
    one = pair()
    first, second = one.operations()
    with pytest.raises(errors.NotTogether, match='named twice'):
        create_together([(first, 's1'), (first, 's2')], one.create_all)
    one.qemus[1].quit()
    with pytest.raises(errors.NotTogether, match='no guest'):
        one.take()
    assert one.asked == []
    for operations in (first, second):
        assert operations.recover() == []
    one.verify()


def test_no_overlay_of_one_leaves_none_of_the_others(
        pair: Callable[[], Pair]) -> None:
    one = pair()
    (one.disks[1].files.folder / 'volume-2.s1').write_text('in the way')
    with pytest.raises(errors.Disagreement, match='but is no layer'):
        one.take()
    (one.disks[1].files.folder / 'volume-2.s1').unlink()
    for operations in one.operations():
        assert operations.recover() == []
    assert not one.taken()
    one.verify()
