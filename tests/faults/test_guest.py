# SPDX-License-Identifier: Apache-2.0
"""Operations on a volume that a real QEMU has open.

The agent's own part is tested with the agent.  Here it is what Operations
make of it when the guest's side answers late, twice, or never again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import Method
from tests.faults.lab import Died
from tests.faults.lab import dies_at
from tests.faults.lab import Lab
from tests.faults.lab import LATER
from tests.faults.lab import LITTLE
from tests.faults.lab import MUCH
from tests.faults.lab import OTHER
from tests.faults.lab import some
from tests.faults.qemu import QemuGuest
from tests.images import Disk
from tests.images import MIB
from tests.images import Write

# Method -> layers, and which snapshot's deletion it is.
MERGES = {
    'active-commit': ((MUCH, OTHER, LITTLE), 's2', Method.ACTIVE_COMMIT),
    'commit': ((MUCH, LITTLE, LATER), 's1', Method.COMMIT),
    'pull': ((MUCH, LITTLE, OTHER), 's2', Method.PULL),
    'full-pull': ((LITTLE, OTHER), 's1', Method.PULL),
}
merges = pytest.mark.parametrize('layers, subject, method', MERGES.values(),
                                 ids=MERGES.keys())


def test_create_while_a_guest_writes(lab: Callable[..., Lab]) -> None:
    one = lab(MUCH)
    one.qemu.write(LITTLE)
    assert one.operations.create('s1') == 'crash-consistent'
    one.disk.snapshots['s1'] = bytes(one.disk.now)
    one.qemu.write(OTHER)
    assert one.guest.chain('1') == ('volume-1', 'volume-1.s1')
    one.verify()


@merges
def test_delete_while_a_guest_writes(
        lab: Callable[..., Lab], layers: tuple[Write, ...], subject: str,
        method: Method) -> None:
    one = lab(*layers)
    assert one.operations.plan(subject).method is method
    one.qemu.write(LATER)
    one.operations.delete(subject)
    del one.disk.snapshots[subject]
    one.qemu.write(some(1, 1, 9))
    one.verify()


@merges
def test_the_callers_death_at_every_step_of_a_delete(
        lab: Callable[..., Lab], layers: tuple[Write, ...], subject: str,
        method: Method) -> None:
    steps: list[str] = []
    uncut = lab(*layers)
    uncut.disk.operations(guest=uncut.guest,
                          observer=steps.append).delete(subject)
    assert 'merge in the guest' in steps
    for number in range(len(steps)):
        one = lab(*layers)
        with pytest.raises(Died):
            one.disk.operations(guest=one.guest, observer=dies_at(number)
                                ).delete(subject)
        one.qemu.write(LATER)
        one.operations.recover()
        if subject in one.operations.state().snapshots:
            assert number == 0
            one.operations.delete(subject)
        del one.disk.snapshots[subject]
        assert set(one.guest.asked) == {f'delete {subject}'}
        one.verify()


@merges
@pytest.mark.parametrize('moment', ['before the job', 'after the job',
                                    'after the flush'])
def test_a_lost_answer_is_asked_for_again(
        lab: Callable[..., Lab], layers: tuple[Write, ...], subject: str,
        method: Method, moment: str) -> None:
    one = lab(*layers)
    one.died(moment)
    with pytest.raises(Died):
        one.operations.delete(subject)
    one.qemu.write(LATER)
    one.operations.delete(subject)
    assert one.guest.asked == [f'delete {subject}'] * 2
    del one.disk.snapshots[subject]
    one.verify()


@merges
@pytest.mark.parametrize('moment', ['before the job', 'in the job',
                                    'after the job'])
def test_a_guest_killed_in_a_merge_loses_nothing(
        lab: Callable[..., Lab], layers: tuple[Write, ...], subject: str,
        method: Method, moment: str) -> None:
    one = lab(*layers)
    one.killed(moment)
    with pytest.raises(errors.GuestFailed, match='QEMU has ended'):
        one.operations.delete(subject)
    told = one.operations.recover()
    if told:
        assert told[0].startswith('finish the delete')
    else:
        # Nothing had been lost yet, so it was as if never begun.
        assert moment != 'after the job'
        one.operations.delete(subject)
    del one.disk.snapshots[subject]
    one.verify()


def test_a_job_that_the_agent_forgot_is_not_given_up(
        lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on in QEMU, and all the agent knows is that there is one."""
    layers, subject, _ = MERGES['pull']
    one = lab(*layers)
    one.died('before the job')
    with pytest.raises(Died):
        one.operations.delete(subject)

    def busy(volume_id: str, *_request: object) -> None:
        raise errors.GuestFailed(volume=volume_id, code='disk-busy',
                                 reason='there is a block job')
    with monkeypatch.context() as patch:
        patch.setattr(one.guest, 'merge', busy)
        with pytest.raises(errors.GuestFailed, match='a block job'):
            one.operations.delete(subject)
    names = one.disk.files.name, *(
        one.disk.files.overlay(f's{i}') for i in (1, 2))
    one.guest.merge('1', subject, 'delete', names, names[1:], names[2])
    one.operations.delete(subject)
    del one.disk.snapshots[subject]
    one.verify()


def refuse(volume_id: str, *_request: object) -> str:
    raise errors.GuestRefused(volume=volume_id, code='migrating',
                              reason='the guest is being migrated')


@pytest.mark.parametrize('again', [False, True])
def test_a_refused_create_leaves_nothing(
        lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch,
        again: bool) -> None:
    one = lab(MUCH, LITTLE)
    if again:
        one.died('before the switch')
        with pytest.raises(Died):
            one.operations.create('s2')
    with monkeypatch.context() as patch:
        patch.setattr(one.guest, 'create', refuse)
        with pytest.raises(errors.GuestRefused, match='being migrated'):
            one.operations.create('s2')
    assert one.operations.recover() == []
    assert one.disk.operations(guest=one.guest).check() == []
    one.qemu.write(LATER)
    one.operations.create('s2')
    one.disk.snapshots['s2'] = bytes(one.disk.now)
    one.verify()


def test_what_is_said_to_be_refused_but_written_to_is_kept(
        lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    one = lab(MUCH)
    one.disk.snapshots['s1'] = bytes(one.disk.now)

    def lie(volume_id: str, snapshot_id: str, new_file: str,
            quiesce: str) -> str:
        QemuGuest.create(one.guest, volume_id, snapshot_id, new_file, quiesce)
        one.qemu.write(LITTLE)
        one.qemu.quit()
        return refuse(volume_id)

    with monkeypatch.context() as patch:
        patch.setattr(one.guest, 'create', lie)
        with pytest.raises(errors.GuestRefused):
            one.operations.create('s1')
    one.operations.recover()
    assert 's1' in one.operations.state().snapshots
    one.verify()


@merges
@pytest.mark.parametrize('again', [False, True])
def test_a_refused_merge_leaves_the_snapshot_usable(
        lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch,
        layers: tuple[Write, ...], subject: str, method: Method,
        again: bool) -> None:
    one = lab(*layers)
    before = one.operations.state().snapshots
    if again:
        one.died('before the job')
        with pytest.raises(Died):
            one.operations.delete(subject)
    with monkeypatch.context() as patch:
        patch.setattr(one.guest, 'merge', refuse)
        with pytest.raises(errors.GuestRefused, match='being migrated'):
            one.operations.delete(subject)
    assert one.operations.state().snapshots == before
    assert one.operations.recover() == []
    one.qemu.write(LATER)
    one.operations.delete(subject)
    del one.disk.snapshots[subject]
    one.verify()


def moved_and_killed(one: Lab, *writes: Write) -> None:
    """Have a guest move down, write there, and die before it is told."""
    def moment(now: str) -> None:
        if now == 'after the job':
            one.qemu.write(*writes)
            one.qemu.io('flush')
            one.qemu.kill()

    one.guest.when = moment
    with pytest.raises(errors.GuestFailed):
        one.operations.delete('s2')


def test_what_nobody_knows_stops_and_keeps_every_file(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, OTHER, LITTLE)
    moved_and_killed(one, some(14, 1, 9))
    files = contents(one.disk)
    for _ in range(2):
        with pytest.raises(errors.Disagreement, match='nobody knows whether'):
            one.operations.recover()
        assert contents(one.disk) == files


def test_what_makes_no_difference_need_not_be_known(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, OTHER, LITTLE)
    moved_and_killed(one, LATER)
    one.operations.recover()
    del one.disk.snapshots['s2']
    one.verify()


@pytest.mark.parametrize('moment, there', [('before the switch', False),
                                           ('after the switch', True)])
def test_the_callers_death_in_a_create(lab: Callable[..., Lab], moment: str,
                                       there: bool) -> None:
    one = lab(MUCH)
    one.died(moment)
    with pytest.raises(Died):
        one.operations.create('s1')
    if not there:
        one.qemu.write(LITTLE)
    one.disk.snapshots['s1'] = bytes(one.disk.now)
    if there:
        one.qemu.write(LITTLE)
    assert one.operations.recover() == [
        'finish the create of s1 from step "switch", with the host of its '
        'guest']
    assert one.guest.asked == ['create s1'] * 2
    one.qemu.write(OTHER)
    one.verify()


def test_a_guest_killed_before_it_moved(lab: Callable[..., Lab]) -> None:
    one = lab(MUCH)
    one.killed('before the switch')
    with pytest.raises(errors.GuestFailed):
        one.operations.create('s1')
    assert one.operations.recover() == []
    one.disk.verify()


def test_a_guest_killed_after_it_moved_and_wrote(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH)
    one.disk.snapshots['s1'] = bytes(one.disk.now)

    def moment(now: str) -> None:
        if now == 'after the switch':
            one.qemu.write(LITTLE)
            one.qemu.io('flush')
            one.qemu.kill()
            raise Died

    one.guest.when = moment
    with pytest.raises(Died):
        one.operations.create('s1')
    one.operations.recover()
    assert 's1' in one.operations.state().snapshots
    one.verify()


def test_an_unfinished_operation_on_a_guest_needs_its_host(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, LITTLE)
    one.died('after the job')
    with pytest.raises(Died):
        one.operations.delete('s1')
    with pytest.raises(errors.VolumeInUse, match='whose host must be asked'):
        one.disk.operations().recover()
    with pytest.raises(errors.OperationInFlight):
        one.operations.create('s2')


def test_a_host_that_cannot_commit_pulls_or_says_why(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, LITTLE, LATER)
    one.guest.commits = False
    assert one.operations.plan('s2').direction is Direction.UP
    files = contents(one.disk)
    with pytest.raises(errors.NoDirection, match='update libvirt'):
        one.operations.delete('s1')
    assert contents(one.disk) == files
    assert one.guest.asked == []
    one.operations.delete('s2')
    del one.disk.snapshots['s2']
    one.verify()


def test_what_needs_a_detached_volume_is_refused(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, LITTLE)
    files = contents(one.disk)
    with pytest.raises(errors.VolumeInUse, match='by a guest'):
        one.operations.revert('s1')
    assert contents(one.disk) == files


def test_a_guest_that_nobody_told_of_is_noticed(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, LITTLE)
    alone = one.disk.operations()
    files = contents(one.disk)
    for attempt in (lambda: alone.create('s2'), lambda: alone.delete('s1'),
                    lambda: alone.revert('s1'), lambda: alone.extend(2 * MIB),
                    lambda: alone.flatten(delete_snapshots=True)):
        with pytest.raises(errors.VolumeInUse, match='QEMU process'):
            attempt()
    assert contents(one.disk) == files


def test_a_guest_on_other_layers_is_a_third_state(
        lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, LITTLE)
    one.disk.operations(guest=Elsewhere(one.qemu)).check()
    with pytest.raises(errors.Disagreement, match='the guest runs on'):
        one.disk.operations(guest=Elsewhere(one.qemu)).delete('s1')
    found = one.disk.operations(guest=Elsewhere(one.qemu)).check()
    assert ['the guest runs on' in f.problem for f in found] == [True]


def test_a_clone_beside_a_running_guest(lab: Callable[..., Lab]) -> None:
    one = lab(MUCH, OTHER, LITTLE)
    target = one.disk.files.folder / 'volume-2'
    one.operations.clone('s2', target)
    copy = Disk(one.disk.files.folder, 'qcow2', name='volume-2')
    assert copy.content('volume-2') == one.disk.snapshots['s2']


class Elsewhere(QemuGuest):
    """A guest whose disk is not what the metadata say."""

    def chain(self, volume_id: str) -> tuple[str, ...] | None:
        return ('volume-1',)


def contents(disk: Disk) -> dict[str, bytes]:
    """Return every file of the share, but for the lock."""
    return {path.name: path.read_bytes()
            for path in disk.files.folder.iterdir()
            if path != disk.files.lock}
