# SPDX-License-Identifier: Apache-2.0
"""An attached volume grows, and its guest sees it.

The writer goes around in more blocks than the volume has at first, so what
it writes beyond the old end is proved record by record, in every snapshot.
"""

from __future__ import annotations

import libvirt
import pytest

from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.rpcapi import errors
from tests.functional.lab import content
from tests.functional.lab import images
from tests.functional.lab.share import MIB
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import Watched

SMALL = 16 * MIB
GROWN = 64 * MIB
#: The first record beyond the old end.
END = SMALL // content.RECORD
BLOCKS = 2 * END


def small(ground: Ground, fmt: str = 'qcow2', *,
          encrypted: bool = False) -> Watched:
    """A guest that wrote on a small volume, and stopped before its end."""
    volume = ground.share.volume(fmt, SMALL, encrypted=encrypted)
    machine = ground.guest(volume)
    # Every layer above is smaller: it is cheaper to commit.
    machine.run(f'dd if=/dev/zero of=/dev/{machine.device(volume)} bs=1M '
                f'count={SMALL // MIB} oflag=direct 2>/dev/null')
    one = ground.watch(machine, volume, blocks=BLOCKS, delay=0.002)
    one.writer.wait_for(END // 4)
    one.stop()
    return one


def seen(one: Watched) -> int:
    """The size that the guest sees."""
    device = one.machine.device(one.volume)
    return 512 * int(one.machine.run(f'cat /sys/block/{device}/size'))


def beyond(one: Watched) -> None:
    """Let the writer go on, and pass the old end."""
    assert one.last is not None, 'it writes'
    one.writer.start(one.last.lowest)
    one.last = None
    assert one.writer.wait_for(END + FEW).errors == 0


def fill(one: Watched) -> None:
    """Make the active layer large, where the writer does not come."""
    one.machine.run(f'dd if=/dev/zero of=/dev/{one.machine.device(one.volume)}'
                    f' bs=1M seek={2 * SMALL // MIB} count=28 oflag=direct '
                    f'2>/dev/null')


def sizes(one: Watched) -> list[int]:
    """The virtual sizes of the layers, base first."""
    return [int(layer['virtual-size']) for layer in images.chain(
        one.volume.active, one.volume.active_format)]


def extend(one: Watched, size: int = GROWN) -> None:
    """Extend it; the guest sees it when it returns."""
    one.operations().extend(size)
    assert seen(one) == size


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_a_volume_without_snapshots(ground: Ground, fmt: str) -> None:
    one = small(ground, fmt)
    extend(one)
    beyond(one)
    snapshot = one.create()
    one.writer.write_more(FEW)
    done(one.delete(snapshot), 'active-commit')
    assert (seen(one), sizes(one)) == (GROWN, [GROWN])


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_snapshots_go_in_every_direction(ground: Ground, fmt: str) -> None:
    """What survives a merge is as large as the layer that went into it."""
    one = small(ground, fmt)
    first, second = one.create(), one.create()
    extend(one)
    assert sizes(one) == [SMALL, SMALL, GROWN]
    beyond(one)
    third, fourth = one.create(), one.create()
    one.writer.write_more(FEW)
    one.delete(second)
    assert sizes(one) == [SMALL, GROWN, GROWN, GROWN]
    one.snapshot_contents()
    one.delete(first)
    assert sizes(one) == [GROWN, GROWN, GROWN]
    one.snapshot_contents()
    fill(one)
    done(one.delete(fourth), 'pull')
    one.delete(third)
    assert {job.method for job in one.jobs} >= {'commit', 'pull'}
    one.writer.write_more(FEW)
    assert (seen(one), sizes(one)) == (GROWN, [GROWN])


def test_an_active_commit_makes_the_base_larger(ground: Ground) -> None:
    one = small(ground, 'raw')
    snapshot = one.create()
    extend(one)
    beyond(one)
    done(one.delete(snapshot), 'active-commit')
    assert (seen(one), sizes(one)) == (GROWN, [GROWN])
    assert one.volume.path.stat().st_size == GROWN


def test_a_pull_from_a_smaller_base(ground: Ground) -> None:
    one = small(ground)
    one.create()
    extend(one)
    beyond(one)
    fill(one)
    done(one.flatten(), 'pull')
    one.writer.write_more(FEW)
    assert (seen(one), sizes(one)) == (GROWN, [GROWN])


def test_encrypted(ground: Ground) -> None:
    one = small(ground, encrypted=True)
    extend(one, GROWN // 2)
    snapshot = one.create()
    extend(one)
    beyond(one)
    one.delete(snapshot)
    one.writer.write_more(FEW)
    assert (seen(one), sizes(one)) == (GROWN, [GROWN])


def test_asked_again_and_never_smaller(ground: Ground) -> None:
    one = small(ground)
    one.create()
    extend(one)
    told = ground.client.extend(one.volume.id, GROWN)
    assert (told.volume_id, told.domain, told.device, told.size) == (
        one.volume.id, one.machine.name, 'vda', GROWN)
    one.operations().extend(GROWN)
    with pytest.raises(errors.WouldShrink) as caught:
        one.unchanged(ground.client.extend, one.volume.id, SMALL)
    assert caught.value.kwargs['found'] == GROWN
    with pytest.raises(chain_errors.BadSize, match='nothing shrinks'):
        one.unchanged(one.operations().extend, SMALL)
    with pytest.raises(errors.InvalidRequest, match='no multiple of 512'):
        one.unchanged(ground.client.extend, one.volume.id, GROWN + 1)
    assert (seen(one), sizes(one)) == (GROWN, [SMALL, GROWN])


def test_a_paused_guest_sees_it_when_it_goes_on(ground: Ground) -> None:
    one = small(ground)
    one.machine.suspend()
    one.operations().extend(GROWN)
    one.machine.resume()
    assert seen(one) == GROWN
    beyond(one)


def test_a_guest_that_is_shut_off_starts_on_it(ground: Ground) -> None:
    one = small(ground, 'raw')
    one.create()
    one.machine.destroy()
    with pytest.raises(errors.NotRunning):
        one.unchanged(ground.client.extend, one.volume.id, GROWN)
    one.operations().extend(GROWN)
    assert sizes(one) == [SMALL, GROWN]
    one.machine.start()
    assert seen(one) == GROWN
    beyond(one)


def test_while_a_guest_writes(ground: Ground) -> None:
    """It waits for the job that the volume has; the bare agent refuses."""
    one = ground.one()
    old = seen(one)
    one.fill(LARGE)
    snapshot = one.create()
    one.fill(LARGE)
    job, rest = one.deleting(snapshot)
    with pytest.raises(errors.DiskBusy, match=job.id):
        one.ground.client.extend(one.volume.id, 2 * old)
    growth = ground.later(one.operations().extend, 2 * old)
    one.writer.write_more(FEW)
    assert (growth.done(), seen(one)) == (False, old)
    ground.client.set_bandwidth(job.id, 0)
    rest.result(60)
    growth.result(60)
    one.writer.write_more(FEW)
    assert (seen(one), sizes(one)) == (2 * old, [2 * old])


def test_a_job_of_somebody_else(ground: Ground) -> None:
    """Nothing is left of what was refused."""
    one = small(ground)
    one.create()
    device = one.machine.device(one.volume)
    one.machine.domain.blockRebase(
        device, None, 1, libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES)
    with pytest.raises(chain_errors.GuestFailed) as caught:
        one.unchanged(one.operations().extend, GROWN)
    assert caught.value.fields['code'] == errors.DiskBusy.code
    assert one.operations().recover() == []
    one.machine.domain.blockJobAbort(device, 0)
    extend(one)


def test_no_guest_has_it(ground: Ground) -> None:
    volume = ground.share.volume()
    with pytest.raises(errors.VolumeNotFound):
        ground.client.extend(volume.id, GROWN)


def test_two_guests_have_it(ground: Ground) -> None:
    volume = ground.share.volume()
    for _ in range(2):
        ground.stage.guest(volume).define()
    with pytest.raises(errors.MultiAttached):
        ground.client.extend(volume.id, GROWN)
