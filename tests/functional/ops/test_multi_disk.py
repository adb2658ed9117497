# SPDX-License-Identifier: Apache-2.0
"""Several disks of one guest in one transaction: all or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
import subprocess
import uuid

import pytest

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab import content
from tests.functional.lab import waiting
from tests.functional.lab.guest import Moment
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import Watched


def prepared(both: list[Watched]) -> CreateRequest:
    """A request with a good overlay for every disk."""
    snapshots = [str(uuid.uuid4()) for _ in both]
    return CreateRequest(tuple(
        one.disk(one.ground.share.overlay(one.volume, snapshot).name,
                 snapshot)
        for one, snapshot in zip(both, snapshots, strict=True)), Quiesce.OFF)


def test_two_disks_move_together(ground: Ground) -> None:
    both = ground.pair()
    request = prepared(both)
    with ExitStack() as stack:
        moments = [stack.enter_context(Moment(one.writer)) for one in both]
        job = both[0].ended(ground.client.create_snapshot(request))
    assert job.state is State.DONE
    assert job.chains == {one.volume.id: one.live for one in both}
    for one, disk, moment in zip(both, request.disks, moments, strict=True):
        assert one.live == (one.volume.name, disk.new_file)
        content.prove(one.volume.path, one.volume.format,
                      one.writer.pattern, moment.bounds)
        one.record(disk.snapshot_id, moment.bounds)
    for one, disk in zip(both, request.disks, strict=True):
        one.writer.write_more(FEW)
        one.delete(disk.snapshot_id)


@contextmanager
def held(image: Path) -> Iterator[None]:
    """Hold QEMU's lock of an image, as another host's QEMU would."""
    options = f'driver=qcow2,backing=,file.driver=file,file.filename={image}'
    with subprocess.Popen(
            ['qemu-io', '-c', 'sleep 60000', '--image-opts', options],
            stdout=subprocess.DEVNULL) as holder:
        waiting.until(lambda: _locked(image), 'the lock', 10)
        yield
        holder.kill()


def _locked(image: Path) -> bool:
    node = image.stat().st_ino
    locks = Path('/proc/locks').read_text().splitlines()
    return any(f':{node} ' in line for line in locks)


def test_one_bad_overlay_moves_no_disk(ground: Ground) -> None:
    both = ground.pair()
    request = prepared(both)
    good, bad = request.disks
    unfit = CreateRequest((good, replace(bad, new_file=bad.new_file + 'x')),
                          Quiesce.OFF)
    with pytest.raises(errors.BadOverlay, match='is not there'):
        both[0].unchanged(both[1].unchanged, ground.client.create_snapshot,
                          unfit)

    def submit() -> Job:
        return both[0].ended(ground.client.create_snapshot(request))
    # QEMU alone can find this out, in the middle of the transaction.
    with held(both[1].volume.folder / bad.new_file):
        job = both[0].unchanged(both[1].unchanged, submit)
    assert (job.state, job.error_code) == (State.FAILED, 'libvirt-failed')
    assert 'lock' in job.error
    for one, disk in zip(both, request.disks, strict=True):
        one.writer.write_more(FEW)
        (one.volume.folder / disk.new_file).unlink()


def test_disks_of_two_guests_are_refused(ground: Ground) -> None:
    one = ground.one()
    other = ground.share.volume()
    ground.stage.guest(other).define()
    overlays = [one.disk(ground.share.overlay(volume, 's1').name)
                for volume in (one.volume, other)]
    request = CreateRequest(
        (overlays[0], replace(overlays[1], volume_id=other.id)), Quiesce.OFF)
    with pytest.raises(errors.InvalidRequest, match='different guests'):
        one.unchanged(ground.client.create_snapshot, request)
    one.volume.layer('s1').unlink()
