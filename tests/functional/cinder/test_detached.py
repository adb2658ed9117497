# SPDX-License-Identifier: Apache-2.0
"""Volumes that no guest has: every operation, every content compared."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import itertools
import json
import os
from pathlib import Path
import subprocess
from typing import Any

from cinder import exception
from cinder import objects
import pytest

from tests.functional.cinder.lab.content import Content
from tests.functional.cinder.lab.content import digest
from tests.functional.cinder.lab.world import GIB
from tests.functional.cinder.lab.world import World
from tests.functional.lab import images

MIB = 1 << 20
BOTH = pytest.mark.parametrize('cow', [False, True], ids=['raw', 'qcow2'])


def layered(cinder: World, driver: Any, count: int = 3
            ) -> tuple[Any, list[Any], list[Content]]:
    """A volume with snapshots; what each of them and the volume holds."""
    volume = cinder.volume(driver=driver)
    snapshots, contents = [], []
    for n in range(count):
        cinder.write(volume, 0x10 + n, n * MIB)
        cinder.write(volume, 0x20 + n, 8 * MIB)  # everybody writes here
        contents.append(cinder.content(volume))
        snapshots.append(cinder.snapshot(volume, driver=driver))
    cinder.write(volume, 0x30, 9 * MIB)
    return volume, snapshots, [*contents, cinder.content(volume)]


def check(cinder: World, volume: Any, snapshots: list[Any],
          contents: list[Content]) -> None:
    """The volume and its snapshots hold what they did; files agree."""
    cinder.audit(volume, *snapshots)
    assert cinder.content(volume) == contents[-1]
    for snapshot, content in zip(snapshots, contents, strict=False):
        assert cinder.snapshot_content(snapshot) == content


@pytest.mark.parametrize(('cow', 'order'), [
    *((False, order) for order in itertools.permutations(range(3))),
    (True, (1, 0, 2)), (True, (2, 1, 0))])
def test_delete_in_any_order(cinder: World, cow: bool,
                             order: tuple[int, ...]) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=cow)
    volume, snapshots, contents = layered(cinder, driver)
    left = list(range(3))
    check(cinder, volume, snapshots, contents)
    for victim in order:
        cinder.delete(snapshots[victim], driver=driver)
        left.remove(victim)
        check(cinder, volume, [snapshots[n] for n in left],
              [*(contents[n] for n in left), contents[-1]])
    cinder.delete_volume(volume, driver=driver)
    assert list(cinder.share.iterdir()) == []


@BOTH
@pytest.mark.parametrize('size', [1, 3])
def test_volume_from_each_snapshot(cinder: World, cow: bool,
                                   size: int) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=cow)
    volume, snapshots, contents = layered(cinder, driver)
    for snapshot, content in zip(snapshots, contents, strict=False):
        copy = cinder.from_snapshot(snapshot, size, driver=driver)
        assert cinder.formats(copy) == {'format': 'qcow2' if cow else 'raw'}
        cinder.audit(copy)
        assert cinder.content(copy) == Content(size * GIB, content.blocks)
        cinder.delete_volume(copy, driver=driver)
    check(cinder, volume, snapshots, contents)


@BOTH
@pytest.mark.parametrize('size', [1, 2])
@pytest.mark.parametrize('count', [0, 2])
def test_clone(cinder: World, cow: bool, size: int, count: int) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=cow)
    volume, snapshots, contents = layered(cinder, driver, count)
    copy = cinder.clone(volume, size, driver=driver)
    cinder.audit(copy)
    assert cinder.content(copy) == Content(size * GIB, contents[-1].blocks)
    check(cinder, volume, snapshots, contents)
    # It stands alone.
    cinder.write(copy, 0x77)
    assert cinder.content(volume) == contents[-1]
    snapshot = cinder.snapshot(copy, driver=driver)
    cinder.audit(copy, snapshot)


@BOTH
def test_revert_again_and_again(cinder: World, cow: bool) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=cow)
    volume, snapshots, contents = layered(cinder, driver)
    for _ in range(2):
        driver.revert_to_snapshot(cinder.context, cinder.fresh(volume),
                                  snapshots[-1])
        check(cinder, volume, snapshots, [*contents[:3], contents[2]])
        cinder.write(volume, 0x55, 5 * MIB)
    cinder.delete(snapshots[-1], driver=driver)
    assert cinder.content(volume).bytes_at(5 * MIB) == digest(0x55)


def test_only_the_newest_is_reverted_to(cinder: World) -> None:
    volume, snapshots, contents = layered(cinder, cinder.driver)
    with pytest.raises(exception.InvalidSnapshot, match='is not the newest'):
        cinder.driver.revert_to_snapshot(
            cinder.context, cinder.fresh(volume), snapshots[0])
    check(cinder, volume, snapshots, contents)


@BOTH
@pytest.mark.parametrize('count', [0, 2])
def test_extend(cinder: World, cow: bool, count: int) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=cow)
    volume, snapshots, contents = layered(cinder, driver, count)
    driver.extend_volume(cinder.fresh(volume), 3)
    row = cinder.fresh(volume)
    row.size = 3
    row.save()
    grown = Content(3 * GIB, contents[-1].blocks)
    check(cinder, volume, snapshots, [*contents[:-1], grown])
    cinder.write(volume, 0x66, 3 * GIB - MIB, MIB)
    for snapshot in snapshots:
        cinder.delete(snapshot, driver=driver)
    assert cinder.content(volume).bytes_at(3 * GIB - MIB) == digest(0x66)
    cinder.audit(volume)


def test_attached_is_not_extended_unseen(cinder: World) -> None:
    volume = cinder.volume()
    cinder.attach(volume)
    with pytest.raises(exception.ExtendVolumeError, match='Nova cannot be'):
        cinder.driver.extend_volume(volume, 2)  # the object is stale
    assert cinder.content(volume).size == GIB


@pytest.mark.parametrize(('options', 'mode'), [
    ({'nas_secure_file_permissions': True}, 0o660),
    ({'nas_secure_file_permissions': False}, 0o666)])
@BOTH
def test_every_file_has_the_mode(cinder: World, options: dict[str, Any],
                                 mode: int, cow: bool) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=cow, **options)
    previous = os.umask(0o077)
    try:
        volume, snapshots, _ = layered(cinder, driver, 2)
        copy = cinder.from_snapshot(snapshots[0], driver=driver)
        cinder.clone(volume, driver=driver)
        cinder.snapshot(copy, driver=driver)
        cinder.delete(snapshots[0], driver=driver)
    finally:
        os.umask(previous)
    found = {path.name: path.stat().st_mode & 0o777
             for path in cinder.share.iterdir() if path.suffix != '.lock'}
    assert set(found.values()) == {mode}, found


def test_thick_volume_takes_its_space(cinder: World) -> None:
    driver = cinder.make_driver(nfs_sparsed_volumes=False)
    volume = cinder.volume(driver=driver)
    found = (cinder.share / volume.name).stat()
    assert found.st_blocks * 512 >= found.st_size == GIB


def test_snapshots_can_be_switched_off(cinder: World) -> None:
    driver = cinder.make_driver(nfs_snapshot_support=False)
    volume = cinder.volume(driver=driver)
    with pytest.raises(exception.VolumeDriverException,
                       match='nfs_snapshot_support is off'):
        cinder.snapshot(volume, driver=driver)
    cinder.audit(volume)


def test_secure_mode_takes_snapshots(cinder: World) -> None:
    driver = cinder.make_driver(nas_secure_file_operations=True,
                                nas_secure_file_permissions=True)
    volume = cinder.volume(driver=driver)
    cinder.audit(volume, cinder.snapshot(volume, driver=driver))


# What is refused, and what is left then --------------------------------------

@contextlib.contextmanager
def opened(path: Path, form: str) -> Iterator[None]:
    """Have a QEMU process hold an image open for writing."""
    with subprocess.Popen(['qemu-io', '-f', form, str(path)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE
                          ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b'length\n')
        process.stdin.flush()
        while b'GiB' not in (line := process.stdout.readline()):
            assert line
        yield
        process.stdin.close()


def test_unknown_guest(cinder: World) -> None:
    volume, snapshots, contents = layered(cinder, cinder.driver, 1)
    active = cinder.disk(volume).active
    row = cinder.snapshot_row(volume)
    with opened(active, 'qcow2'):
        with pytest.raises(exception.InvalidVolume, match='is in use'):
            cinder.take(row)
        with pytest.raises(exception.SnapshotIsBusy, match='is in use'):
            cinder.delete(snapshots[0])
        with pytest.raises(exception.InvalidVolume, match='is in use'):
            cinder.driver.revert_to_snapshot(cinder.context, volume,
                                             snapshots[0])
        with pytest.raises(exception.ExtendVolumeError, match='is in use'):
            cinder.driver.extend_volume(volume, 2)
        with pytest.raises(exception.InvalidVolume, match='is in use'):
            cinder.clone(volume)
    reason = cinder.fresh(snapshots[0]).metadata
    assert 'is in use' in reason['assisted_snapshots:reason']
    check(cinder, volume, snapshots, contents)
    cinder.delete(snapshots[0])
    assert cinder.content(volume) == contents[-1]


def test_volume_in_use_is_not_removed(cinder: World) -> None:
    volume = cinder.volume()
    with opened(cinder.share / volume.name, 'raw'):
        with pytest.raises(exception.VolumeIsBusy, match='is open'):
            cinder.delete_volume(volume)
        assert (cinder.share / volume.name).exists()
    cinder.delete_volume(volume)
    assert list(cinder.share.iterdir()) == []


def test_volume_with_snapshots_is_not_removed(cinder: World) -> None:
    volume, snapshots, contents = layered(cinder, cinder.driver, 1)
    with pytest.raises(exception.VolumeIsBusy, match='still has 1'):
        cinder.delete_volume(volume)
    check(cinder, volume, snapshots, contents)


def test_duplicate_deletion(cinder: World) -> None:
    volume = cinder.volume()
    snapshot = cinder.snapshot(volume)
    stale = cinder.fresh(snapshot)
    cinder.delete(snapshot)
    with pytest.raises(exception.SnapshotNotFound):
        cinder.driver.delete_snapshot(stale)


def test_volume_in_another_state(cinder: World) -> None:
    volume, snapshots, contents = layered(cinder, cinder.driver, 1)
    row = cinder.fresh(volume)
    row.status = 'uploading'
    row.save()
    with pytest.raises(exception.SnapshotIsBusy, match='is uploading'):
        cinder.delete(snapshots[0])
    with pytest.raises(exception.InvalidVolume, match='is uploading'):
        cinder.snapshot(volume)
    check(cinder, volume, snapshots, contents)


def test_failed_copy_leaves_nothing(cinder: World) -> None:
    volume = cinder.volume(2)
    snapshot = cinder.snapshot(volume)
    before = set(cinder.share.iterdir())
    with pytest.raises(exception.InvalidVolume, match='nothing shrinks'):
        cinder.from_snapshot(snapshot, 1)
    assert set(cinder.share.iterdir()) == before


def test_larger_than_granted_is_not_handed_out(cinder: World) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=True)
    volume = cinder.volume(driver=driver)
    images.run('resize', '-f', 'qcow2', cinder.share / volume.name, '2G')
    with pytest.raises(exception.InvalidVolume, match='not handed out'):
        cinder.attach(volume, driver=driver)


def test_header_of_a_guest_in_a_raw_volume(cinder: World) -> None:
    volume = cinder.volume()
    path = cinder.share / volume.name
    inner = cinder.folder / 'inner'
    images.create(inner, 'qcow2', 64 * MIB)
    with path.open('r+b') as disk:
        disk.write(inner.read_bytes())
    before = cinder.content(volume)
    snapshot = cinder.snapshot(volume)
    copy = cinder.from_snapshot(snapshot)
    clone = cinder.clone(volume)
    assert cinder.content(copy) == cinder.content(clone) == before
    assert cinder.content(volume) == before
    cinder.delete(snapshot)
    assert cinder.content(volume) == before
    assert cinder.attach(volume).connection_info['format'] == 'raw' or (
        cinder.disk(volume).active.name != volume.name)


# There and back --------------------------------------------------------------

@BOTH
def test_there_and_back(cinder: World, cow: bool) -> None:
    """Ours and upstream's take turns on one volume, operation by operation."""
    ours = cinder.make_driver(nfs_qcow2_volumes=cow)
    upstream = cinder.make_driver(
        'cinder.volume.drivers.nfs.NfsDriver', nfs_qcow2_volumes=cow)
    for first, second in ((ours, upstream), (upstream, ours)):
        volume = cinder.volume(driver=first)
        snapshots, contents = [], []
        for n, driver in enumerate((second, first, second, first)):
            cinder.write(volume, 0x10 + n, n * MIB)
            contents.append(cinder.content(volume))
            snapshots.append(cinder.snapshot(volume, driver=driver))
        cinder.write(volume, 0x30, 9 * MIB)
        contents.append(cinder.content(volume))
        for driver, victim in ((second, 1), (first, 2), (first, 0),
                               (second, 0)):
            check(cinder, volume, snapshots, contents)
            cinder.delete(snapshots.pop(victim), driver=driver)
            del contents[victim]
        check(cinder, volume, snapshots, contents)
        cinder.delete_volume(volume, driver=ours)
    assert list(cinder.share.iterdir()) == []


def test_adopted_with_records_missing(cinder: World) -> None:
    volume, snapshots, contents = layered(cinder, cinder.upstream)
    row = objects.Volume.get_by_id(cinder.admin, volume.id)
    row.admin_metadata = {'format': 'qcow2'}  # before 2025.2
    row.save()
    cinder.delete(snapshots[1])
    check(cinder, volume, [snapshots[0], snapshots[2]],
          [contents[0], *contents[2:]])
    assert cinder.formats(volume)['base_format'] == 'raw'


def test_adopted_without_any_record(cinder: World) -> None:
    volume = cinder.volume(driver=cinder.upstream)
    row = objects.Volume.get_by_id(cinder.admin, volume.id)
    row.admin_metadata = {}  # before Wallaby
    row.save()
    cinder.write(volume, 0x11)
    before = cinder.content(volume)
    snapshot = cinder.snapshot(volume)
    check(cinder, volume, [snapshot], [before, before])
    assert cinder.formats(volume) == {'format': 'qcow2',
                                      'base_format': 'raw'}


def test_adopted_with_a_truncated_info(cinder: World) -> None:
    volume, snapshots, contents = layered(cinder, cinder.upstream)
    (cinder.share / f'{volume.name}.info').write_text('')
    assert cinder.attach(volume).connection_info['name'].endswith(
        snapshots[-1].id)
    check(cinder, volume, snapshots, contents)


def test_adopted_with_an_overlay_that_upstream_left(cinder: World) -> None:
    """Upstream died between the overlay and .info: W13."""
    volume, snapshots, contents = layered(cinder, cinder.upstream, 1)
    cinder.snapshot(volume, driver=cinder.upstream)
    lost = cinder.snapshot(volume, driver=cinder.upstream)
    info = cinder.share / f'{volume.name}.info'
    known = json.loads(info.read_text())
    del known[lost.id]
    known['active'] = cinder.names(volume)[-2]
    info.write_text(json.dumps(known))
    cinder.delete(lost)
    assert not (cinder.share / f'{volume.name}.{lost.id}').exists()
    assert cinder.content(volume) == contents[-1]
    assert cinder.snapshot_content(snapshots[0]) == contents[0]


def test_an_overlay_that_holds_data_is_kept(cinder: World) -> None:
    volume, _, _ = layered(cinder, cinder.upstream, 1)
    lost = cinder.snapshot(volume, driver=cinder.upstream)
    cinder.write(volume, 0x99, 20 * MIB)
    info = cinder.share / f'{volume.name}.info'
    known = json.loads(info.read_text())
    del known[lost.id]
    known['active'] = cinder.names(volume)[-2]
    info.write_text(json.dumps(known))
    with pytest.raises(exception.VolumeBackendAPIException,
                       match='nowhere else'):
        cinder.delete(lost)
    assert (cinder.share / f'{volume.name}.{lost.id}').exists()
