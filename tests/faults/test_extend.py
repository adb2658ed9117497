# SPDX-License-Identifier: Apache-2.0
"""A volume grows while a real QEMU has it, and somebody dies meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.guest import SHUT_OFF
from tests.faults.lab import Died
from tests.faults.lab import dies_at
from tests.faults.lab import Lab
from tests.faults.lab import LATER
from tests.faults.lab import LITTLE
from tests.faults.lab import MUCH
from tests.faults.lab import OTHER
from tests.faults.qemu import Qemu
from tests.images import CLUSTER
from tests.images import MIB


def refuse(volume_id: str, *_request: object) -> None:
    raise errors.GuestRefused(volume=volume_id, code='migrating',
                              reason='the guest is being migrated')


def grown(one: Lab) -> None:
    """The volume has its new size; nothing is unfinished."""
    assert one.operations.recover() == []
    assert one.operations.state().chain.virtual_size == 2 * MIB
    one.disk.now += bytes(MIB)


def test_extend_while_a_guest_writes(lab: Callable[..., Lab]) -> None:
    """Snapshots keep their size; merging makes the survivor larger."""
    one = lab(MUCH, OTHER, LITTLE)
    one.operations.extend(2 * MIB)
    one.operations.extend(2 * MIB)
    assert one.guest.asked == [f'extend {2 * MIB}']
    grown(one)
    one.qemu.write((2 * MIB - CLUSTER, CLUSTER, 7))
    for snapshot in ('s2', 's1'):
        one.operations.delete(snapshot)
        del one.disk.snapshots[snapshot]
    one.verify()


def test_the_callers_death_at_every_step_of_an_extension(
        lab: Callable[..., Lab]) -> None:
    steps: list[str] = []
    uncut = lab(MUCH, LITTLE)
    uncut.disk.operations(guest=uncut.guest,
                          observer=steps.append).extend(2 * MIB)
    assert 'resize in the guest' in steps
    for number in range(len(steps)):
        one = lab(MUCH, LITTLE)
        with pytest.raises(Died):
            one.disk.operations(guest=one.guest, observer=dies_at(number)
                                ).extend(2 * MIB)
        one.qemu.write(LATER)
        one.operations.recover()
        if not number:
            one.operations.extend(2 * MIB)
        grown(one)
        one.verify()


@pytest.mark.parametrize('moment', ['before the resize', 'after the resize'])
@pytest.mark.parametrize('gone', [False, True])
def test_the_answer_to_an_extension_is_lost(
        lab: Callable[..., Lab], moment: str, gone: bool) -> None:
    """It is ended in the guest, or on the file when that has gone."""
    one = lab(MUCH, LITTLE)
    one.died(moment)
    with pytest.raises(Died):
        one.operations.extend(2 * MIB)
    if gone:
        one.qemu.quit()
    one.operations.recover()
    grown(one)
    one.verify()


def test_another_side_may_refuse_what_has_been_done(
        lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    one = lab(MUCH, LITTLE)
    one.died('after the resize')
    with pytest.raises(Died):
        one.operations.extend(2 * MIB)
    with monkeypatch.context() as patch:
        patch.setattr(one.guest, 'extend', refuse)
        one.operations.recover()
    grown(one)
    one.verify()


@pytest.mark.parametrize('moment, there', [('before the resize', False),
                                           ('after the resize', True)])
def test_a_guest_killed_in_an_extension(lab: Callable[..., Lab], moment: str,
                                        there: bool) -> None:
    one = lab(MUCH, LITTLE)
    one.killed(moment)
    if there:
        one.operations.extend(2 * MIB)
    else:
        with pytest.raises(errors.GuestFailed):
            one.operations.extend(2 * MIB)
        assert one.operations.recover() == []
        one.operations.extend(2 * MIB)
    grown(one)
    one.verify()


def test_a_guest_started_in_an_extension_carries_it_on(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, LITTLE)
    one.qemu.quit()
    with pytest.raises(Died):
        one.disk.operations(observer=dies_at(1)).extend(2 * MIB)
    one.qemu = one.guest.qemu = Qemu(one.disk)
    with pytest.raises(errors.VolumeInUse, match='QEMU process'):
        one.disk.operations().recover()
    one.operations.recover()
    assert one.guest.asked == [f'extend {2 * MIB}']
    grown(one)
    one.verify()


def test_a_refused_extension_leaves_nothing(
        lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    one = lab(MUCH, LITTLE)
    with monkeypatch.context() as patch:
        patch.setattr(one.guest, 'extend', refuse)
        with pytest.raises(errors.GuestRefused, match='being migrated'):
            one.operations.extend(2 * MIB)
    assert one.operations.recover() == []
    assert one.operations.state().chain.virtual_size == MIB
    one.qemu.write(LATER)
    one.verify()


def test_a_guest_that_is_off_is_extended_on_its_file(
        lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its host knows its layers, though no QEMU has them open."""
    one = lab(MUCH, LITTLE)
    names = one.guest.chain('1')
    one.qemu.quit()

    def off(volume_id: str, _size: int) -> None:
        raise errors.GuestFailed(volume=volume_id, code=SHUT_OFF,
                                 reason='it is shut off')
    monkeypatch.setattr(one.guest, 'chain', lambda _volume: names)
    monkeypatch.setattr(one.guest, 'extend', off)
    one.operations.extend(2 * MIB)
    grown(one)
    one.verify()


def test_an_extension_that_is_not_seen_is_not_believed(
        lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    one = lab(MUCH, LITTLE)
    monkeypatch.setattr(one.guest, 'extend', lambda _volume, _size: None)
    with pytest.raises(errors.Disagreement, match='after it was extended'):
        one.operations.extend(2 * MIB)
    monkeypatch.undo()
    one.operations.extend(2 * MIB)
    grown(one)
    one.verify()
