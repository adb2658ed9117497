# SPDX-License-Identifier: Apache-2.0
"""Two hosts: what one has written, the other reads at once.

Both have mounted with all caches on, and their caches are filled before:
with attributes, with pages, with names and with names that are not there.
"""

from __future__ import annotations

import pytest

from tests.functional.lab.waiting import until
from tests.functional.nfs.lab.client import Client
from tests.functional.nfs.lab.client import Failed
from tests.functional.nfs.lab.client import Job
from tests.functional.nfs.lab.volume import CINDER
from tests.functional.nfs.lab.volume import MIB
from tests.functional.nfs.lab.volume import QEMU
from tests.functional.nfs.lab.volume import Share
from tests.functional.nfs.lab.volume import Volume

INSIDE = 'tests.functional.nfs.inside'
KIB = 1 << 10


def hold_image(client: Client, share: Share, name: str, form: str,
               *writes: tuple[int, int, int]) -> Job:
    """A QEMU that has written and keeps the image open."""
    job = client.start(f'{INSIDE}.qemu:hold', share.mounted, name, form,
                       writes, user=QEMU)
    assert job.event() == 'open'
    return job


def hold_lock(client: Client, share: Share, *, remove: bool = False,
              pause: bool = False) -> Job:
    """A process that wants the volume's lock."""
    job = client.start(f'{INSIDE}.volumes:hold_lock', share.mounted,
                       'volume-1', remove, pause, user=CINDER)
    assert job.event() == 'trying'
    return job


@pytest.mark.parametrize('kind', ['raw', 'qcow2'])
def test_every_change_is_seen_at_once(
        kind: str, share: Share, one: Client, other: Client) -> None:
    volume = Volume(share, kind)
    volume.make(one)
    names = [f'volume-1.{number}' for number in range(5)]
    expected = ['volume-1']
    for number, name in enumerate(names):
        share.look(other, *names, 'volume-1.info', 'volume-1.journal')
        share.modes(other)
        if number:
            volume.state(other)
        volume.do(one, 'create', str(number))
        expected.append(name)
        assert volume.state(other)['layers'] == expected
        volume.write(one, (number * 64 * KIB, 128 * KIB, number + 1))
        volume.verify(other)
    for number in (1, 3):
        volume.do(other, 'delete', str(number))
        found = volume.state(one)
        assert found['layers'] == volume.state(other)['layers']
        assert str(number) not in found['snapshots']
        volume.verify(one)
    volume.do(one, 'extend', 6 * MIB)
    assert volume.state(other)['size'] == 6 * MIB
    volume.do(other, 'revert', '4')
    volume.verify(one)


def test_a_file_that_was_looked_for_too_early(
        share: Share, one: Client, other: Client) -> None:
    """What was not there is not taken to be missing for ever."""
    volume = Volume(share, 'qcow2')
    assert share.look(other, 'volume-1') == [False]
    volume.make(one)
    assert share.opened(other, 'volume-1') is False


def test_a_guest_is_started_on_a_layer_that_was_looked_for_too_early(
        share: Share, one: Client, other: Client) -> None:
    """Nova's host does not take it to be missing for ever."""
    volume = Volume(share, 'qcow2')
    assert share.look(other, 'volume-1') == [False]
    volume.make(one)
    other.call('assisted_snapshots.nova_hooks.guard:check',
               {'serial': '1', 'data': {
                   'export': share.source, 'name': 'volume-1',
                   'device_path': f'{share.mounted}/volume-1'}}, user=CINDER)


def test_a_qemu_elsewhere_is_seen(share: Share, one: Client,
                                  other: Client) -> None:
    volume = Volume(share, 'qcow2')
    volume.make(other)
    assert not share.opened(other, 'volume-1')
    held = hold_image(one, share, 'volume-1', 'qcow2', (0, MIB, 7))
    volume.note((0, MIB, 7))
    assert share.opened(other, 'volume-1')
    with pytest.raises(Failed) as refused:
        volume.call(other, 'operate', 'create', ['a'], user=CINDER)
    assert refused.value.kind == 'VolumeInUse'
    held.go_on()
    held.result()
    assert not share.opened(other, 'volume-1')
    volume.do(other, 'create', 'a')
    volume.verify(other)


def test_the_lock_of_a_volume_excludes_other_hosts(
        share: Share, one: Client, other: Client) -> None:
    first = hold_lock(one, share)
    assert first.event() == 'locked'
    waiting = [hold_lock(other, share), hold_lock(one, share)]
    first.go_on()
    first.result()
    while waiting:
        holder = until(lambda: [job for job in waiting if job.said.qsize()],
                       'one of them having the lock')
        assert len(holder) == 1
        assert holder[0].event() == 'locked'
        waiting.remove(holder[0])
        assert not any(job.said.qsize() for job in waiting)
        holder[0].go_on()
        holder[0].result()


def test_a_lock_file_that_went_with_its_volume_locks_nobody(
        share: Share, one: Client, other: Client) -> None:
    """A new one of its name is another lock, on every host."""
    first = hold_lock(one, share, remove=True)
    assert first.event() == 'locked'
    late = hold_lock(other, share)
    first.go_on()
    first.result()
    assert late.event() == 'locked'
    newer = hold_lock(one, share)
    assert share.look(one, 'volume-1.lock') == [True]
    late.go_on()
    late.result()
    assert newer.event() == 'locked'
    newer.go_on()
    newer.result()


def test_a_lock_file_goes_before_it_can_be_locked(
        share: Share, one: Client, other: Client) -> None:
    """Who has opened it finds its handle stale, and takes the new one."""
    first = hold_lock(one, share, remove=True)
    assert first.event() == 'locked'
    late = hold_lock(other, share, pause=True)
    assert late.event() == 'opened'
    first.go_on()
    first.result()
    late.go_on()
    assert late.event() == 'locked'
    assert share.look(one, 'volume-1.lock') == [True]
    late.go_on()
    late.result()
