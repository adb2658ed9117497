# SPDX-License-Identifier: Apache-2.0
"""What Cinder itself is given to read and to write."""

from __future__ import annotations

from collections.abc import Iterator
import os
import subprocess
from typing import Any

from cinder import exception
import pytest

from assisted_snapshots.cinder_driver import exported
from assisted_snapshots.cinder_driver import view_sweep
from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.cut import cut_short
from tests.functional.cinder.lab.views import daemons
from tests.functional.cinder.lab.views import gone
from tests.functional.cinder.lab.views import HERE
from tests.functional.cinder.lab.views import kill
from tests.functional.cinder.lab.views import path_of
from tests.functional.cinder.lab.views import THERE
from tests.functional.cinder.lab.world import World
from tests.functional.lab import waiting

MIB = 1 << 20
@pytest.fixture(autouse=True)
def ended(cinder: World) -> Iterator[None]:
    """No daemon outlives a test that fails."""
    yield
    for name in exported.subjects(cinder.driver.views.folder):
        cinder.driver.views.exported(name).end()


@pytest.fixture
def chain(cinder: World) -> Iterator[Any]:
    """A volume with two snapshots, different content in each layer."""
    volume = cinder.volume()
    cinder.write(volume, 0x10, 3 * MIB)
    first = cinder.snapshot(volume)
    cinder.write(volume, 0x11)
    cinder.write(volume, 0x11, MIB)
    second = cinder.snapshot(volume)
    cinder.write(volume, 0x22)
    yield volume, second, first
    gone(cinder)


def test_lone_raw_is_itself(cinder: World) -> None:
    volume = cinder.become(cinder.volume(), 'backing-up')
    for connector in (HERE, THERE):
        found = cinder.driver.initialize_connection(volume, connector)
        assert found['driver_volume_type'] == 'nfs'
        assert found['data']['name'] == volume.name
        assert found['data']['format'] == 'raw'
        cinder.driver.terminate_connection(volume, connector)
    gone(cinder)


def test_nova_gets_the_chain(cinder: World, chain: Any) -> None:
    volume, snapshot, _ = chain
    attachment = cinder.attach(volume)
    info = attachment.connection_info
    assert info['driver_volume_type'] == 'nfs'
    assert info['name'] == f'{volume.name}.{snapshot.id}'
    assert info['format'] == 'qcow2'


@pytest.mark.parametrize('connector', [HERE, THERE], ids=['here', 'there'])
def test_read(cinder: World, chain: Any, connector: dict[str, Any]) -> None:
    volume, *_ = chain
    expected = cinder.content(volume)
    volume = cinder.become(volume, 'backing-up')
    found = cinder.driver.initialize_connection(volume, connector)
    local = connector is HERE
    assert found['driver_volume_type'] == ('local' if local else 'nfs')
    path = path_of(found)
    assert content.of_raw(path) == expected
    with open(path, 'rb') as file:  # it can be read more than once
        assert file.read(4096) == b'\x22' * 4096
    if local:
        with pytest.raises(OSError):
            path.write_bytes(b'no')
    cinder.driver.terminate_connection(volume, connector)
    gone(cinder)
    assert cinder.content(volume) == expected


@pytest.mark.parametrize('connector', [HERE, THERE], ids=['here', 'there'])
def test_write(cinder: World, chain: Any, connector: dict[str, Any]) -> None:
    volume, snapshot, first = chain
    held = cinder.snapshot_content(snapshot)
    volume = cinder.become(volume, 'restoring-backup')
    path = path_of(cinder.driver.initialize_connection(volume, connector))
    with open(path, 'wb') as file:  # as Cinder's restore opens it
        file.write(b'\x33' * content.LENGTH)
        file.write(bytes(MIB))
        file.seek(cinder.fresh(volume).size * (1 << 30) - MIB)
        file.write(b'\x44' * MIB)
    cinder.driver.terminate_connection(volume, connector)
    gone(cinder)
    found = cinder.content(volume)
    assert found.bytes_at(0) == content.digest(0x33)
    assert found.bytes_at(content.LENGTH) == ''
    assert found.bytes_at((1 << 30) - MIB) == content.digest(0x44)
    assert cinder.snapshot_content(snapshot) == held
    cinder.become(volume, 'available')
    cinder.audit(volume, first, snapshot)


def test_emptied_target(cinder: World, chain: Any) -> None:
    """Who copies without zeroes finds nothing below them."""
    volume, snapshot, _ = chain
    volume = cinder.become(volume, 'downloading')
    path = path_of(cinder.driver.initialize_connection(volume, HERE))
    with open(path, 'wb') as file:
        file.seek(2 * MIB)
        file.write(b'\x55' * content.LENGTH)
    cinder.driver.terminate_connection(volume, HERE)
    found = cinder.content(volume)
    assert found.bytes_at(0) == found.bytes_at(MIB) == ''
    assert found.bytes_at(2 * MIB) == content.digest(0x55)
    assert cinder.snapshot_content(snapshot).bytes_at(0) == (
        content.digest(0x11))


@pytest.mark.parametrize('connector', [HERE, THERE], ids=['here', 'there'])
def test_snapshot(cinder: World, connector: dict[str, Any]) -> None:
    volume = cinder.volume()
    cinder.write(volume, 0x11)
    first = cinder.snapshot(volume)
    cinder.write(volume, 0x22)
    second = cinder.snapshot(volume)
    cinder.write(volume, 0x33)
    for row, byte in ((first, 0x11), (second, 0x22)):
        snapshot = cinder.become(row, 'backing-up')
        found = cinder.driver.initialize_connection_snapshot(
            snapshot, connector)
        path = path_of(found)
        assert content.of_raw(path) == cinder.snapshot_content(snapshot)
        assert path.read_bytes()[:4096] == bytes([byte]) * 4096
        cinder.driver.terminate_connection_snapshot(snapshot, connector)
        gone(cinder)


def test_closed_twice(cinder: World, chain: Any) -> None:
    volume = cinder.become(chain[0], 'restoring-backup')
    cinder.driver.initialize_connection(volume, HERE)
    cinder.driver.terminate_connection(volume, HERE)
    base = cinder.share / volume.name
    os.truncate(base, base.stat().st_size - MIB)
    before = base.stat().st_size
    cinder.driver.terminate_connection(volume, HERE)
    assert base.stat().st_size == before


def test_two_users(cinder: World, chain: Any) -> None:
    volume, *_ = chain
    expected = cinder.content(volume)
    volume = cinder.become(volume, 'backing-up')
    for connector in (HERE, THERE):
        one, other = [path_of(cinder.driver.initialize_connection(
            volume, connector)) for _ in range(2)]
        assert one == other
        cinder.driver.terminate_connection(volume, connector)
        assert content.of_raw(other) == expected
        cinder.driver.terminate_connection(volume, connector)
        gone(cinder)


def test_a_snapshot_that_is_half_deleted(cinder: World, chain: Any) -> None:
    """What is merged into a snapshot's layer is never read as the snapshot."""
    volume, snapshot, _ = chain
    now = cinder.content(volume)
    cut_short(cinder, volume, 'check the survivor',
              lambda operations: operations.delete(snapshot.id))
    snapshot = cinder.become(snapshot, 'backing-up')
    for connector in (HERE, THERE):
        with pytest.raises(exception.InvalidSnapshot):
            cinder.driver.initialize_connection_snapshot(snapshot, connector)
    assert cinder.content(volume) == now


def test_reader_and_writer(cinder: World, chain: Any) -> None:
    volume, *_ = chain
    volume = cinder.become(volume, 'backing-up')
    cinder.driver.initialize_connection(volume, HERE)
    volume = cinder.become(volume, 'restoring-backup')
    with pytest.raises(exception.VolumeBackendAPIException,
                       match='another one'):
        cinder.driver.initialize_connection(volume, HERE)
    cinder.driver.terminate_connection(volume, HERE)


def test_killed_daemon_is_seen(cinder: World, chain: Any) -> None:
    volume, *_ = chain
    volume = cinder.become(volume, 'restoring-backup')
    path = path_of(cinder.driver.initialize_connection(volume, HERE))
    with open(path, 'r+b') as file:
        file.write(b'\x99' * content.LENGTH)
    kill(cinder)
    with pytest.raises(exception.VolumeBackendAPIException,
                       match='ended before'):
        cinder.driver.terminate_connection(volume, HERE)
    gone(cinder)
    # The next try works.
    path = path_of(cinder.driver.initialize_connection(volume, HERE))
    with open(path, 'r+b') as file:
        file.write(b'\x98' * content.LENGTH)
    cinder.driver.terminate_connection(volume, HERE)
    assert cinder.content(volume).bytes_at(0) == content.digest(0x98)


def test_killed_daemon_while_reading(cinder: World, chain: Any) -> None:
    volume, *_ = chain
    volume = cinder.become(volume, 'backing-up')
    path = path_of(cinder.driver.initialize_connection(volume, HERE))
    kill(cinder)
    with pytest.raises(OSError):
        path.read_bytes()
    again = path_of(cinder.driver.initialize_connection(volume, HERE))
    assert content.of_raw(again) == cinder.content(volume)
    cinder.driver.terminate_connection(volume, HERE)


def test_sweep(cinder: World, chain: Any) -> None:
    """A view lives as long as its status, over a restart of the service."""
    volume, snapshot, _ = chain
    expected = cinder.content(volume)
    volume = cinder.become(volume, 'backing-up')
    snapshot = cinder.become(snapshot, 'backing-up')
    paths = [path_of(cinder.driver.initialize_connection(volume, connector))
             for connector in (HERE, THERE)]
    cinder.driver.initialize_connection_snapshot(snapshot, HERE)
    restarted = cinder.make_driver()
    for path in paths:
        assert content.of_raw(path) == expected

    def sweep_to(left: int) -> None:
        """Its recovery may still hold the lock, and no sweep waits."""
        def swept() -> bool:
            view_sweep.sweep(restarted.views)
            return len(daemons(cinder)) == left
        waiting.until(swept, 'the sweep', 60)

    cinder.become(volume, 'available')
    sweep_to(1)  # the snapshot's
    cinder.become(snapshot, 'available')
    sweep_to(0)
    gone(cinder)


def test_sweep_of_remains(cinder: World, chain: Any) -> None:
    """Whatever a kill leaves: a dead mount, a mount without a record."""
    volume, snapshot, _ = chain
    volume = cinder.become(volume, 'backing-up')
    cinder.driver.initialize_connection(volume, HERE)
    kill(cinder)
    view_sweep.sweep(cinder.driver.views)
    gone(cinder)
    snapshot = cinder.become(snapshot, 'backing-up')
    cinder.driver.initialize_connection_snapshot(snapshot, HERE)
    [record] = (cinder.folder / 'state/assisted_views').rglob('*.json')
    record.unlink()
    view_sweep.sweep(cinder.driver.views)
    gone(cinder)


def test_deleted_volume(cinder: World) -> None:
    volume = cinder.volume(driver=cinder.make_driver(nfs_qcow2_volumes=True))
    cinder.write(volume, 0x11)
    snapshot = cinder.snapshot(volume)
    snapshot = cinder.become(snapshot, 'backing-up')
    for connector in (HERE, THERE):
        cinder.driver.initialize_connection_snapshot(snapshot, connector)
    cinder.delete(snapshot)
    gone(cinder)
    volume = cinder.become(volume, 'backing-up')
    for connector in (HERE, THERE):
        cinder.driver.initialize_connection(volume, connector)
    cinder.delete_volume(volume)
    gone(cinder)
    assert list(cinder.share.iterdir()) == []


def test_delivery_cut_short(cinder: World, chain: Any) -> None:
    """What was written to a staged view gets into the volume after all."""
    volume, snapshot, first = chain
    volume = cinder.become(volume, 'restoring-backup')
    path = path_of(cinder.driver.initialize_connection(volume, THERE))
    with open(path, 'r+b') as file:
        file.write(b'\x77' * content.LENGTH)
    [record] = cinder.share.glob('*.record.view')
    record.write_text(record.read_text().replace('"open"', '"deliver"'))
    cinder.become(volume, 'error_restoring')
    # A new driver's recovery would hold the lock, and a sweep never waits.
    view_sweep.sweep(cinder.driver.views)
    gone(cinder)
    assert cinder.content(volume).bytes_at(0) == content.digest(0x77)
    cinder.become(volume, 'available')
    cinder.audit(volume, first, snapshot)


def test_removal_cut_short(cinder: World, chain: Any) -> None:
    """A view that was delivered holds up nobody, killed before its record
    has gone.
    """
    volume, *_ = chain
    volume = cinder.become(volume, 'restoring-backup')
    path = path_of(cinder.driver.initialize_connection(volume, THERE))
    with open(path, 'r+b') as file:
        file.write(b'\x77' * content.LENGTH)
    [record] = cinder.share.glob('*.record.view')
    text = record.read_text()
    cinder.driver.terminate_connection(volume, THERE)
    record.write_text(text.replace('"open"', '"deliver"'))
    cinder.attach(cinder.become(volume, 'available'))
    gone(cinder)
    assert cinder.content(volume).bytes_at(0) == content.digest(0x77)


@pytest.mark.parametrize('step', ['making', '"'])
def test_making_cut_short(cinder: World, chain: Any, step: str) -> None:
    volume, *_ = chain
    volume = cinder.become(volume, 'backing-up')
    cinder.driver.initialize_connection(volume, THERE)
    [record] = cinder.share.glob('*.record.view')
    record.write_text(record.read_text().replace('open', step))
    path = path_of(cinder.driver.initialize_connection(volume, THERE))
    assert content.of_raw(path) == cinder.content(volume)
    cinder.driver.terminate_connection(volume, THERE)
    gone(cinder)


def test_staged_where_it_is_asked_for(cinder: World) -> None:
    driver = cinder.make_driver(assisted_raw_views='staged')
    volume = cinder.volume()
    cinder.write(volume, 0x11)
    cinder.snapshot(volume)
    volume = cinder.become(volume, 'backing-up')
    found = driver.initialize_connection(volume, HERE)
    assert found['driver_volume_type'] == 'nfs'
    assert content.of_raw(path_of(found)) == cinder.content(volume)
    driver.terminate_connection(volume, HERE)
    gone(cinder)


def test_guest_written_header(cinder: World) -> None:
    """A raw volume that looks like qcow2 is shown as the bytes it holds."""
    volume = cinder.volume()
    inner = cinder.folder / 'inner.qcow2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', inner, '64M'],
                   check=True)
    with open(cinder.share / volume.name, 'r+b') as file:
        file.write(inner.read_bytes())
    snapshot = cinder.snapshot(volume)
    volume = cinder.become(volume, 'backing-up')
    path = path_of(cinder.driver.initialize_connection(volume, HERE))
    assert path.stat().st_size == 1 << 30
    with open(path, 'rb') as file:
        assert file.read(4) == b'QFI\xfb'
    cinder.driver.terminate_connection(volume, HERE)
    cinder.become(volume, 'available')
    cinder.delete(snapshot)
    gone(cinder)


def test_encrypted(cinder: World) -> None:
    """It is shown as a block device would hold it, here as elsewhere."""
    volume = cinder.become(cinder.volume(encrypted=True), 'backing-up')
    found = cinder.driver.initialize_connection(volume, HERE)
    assert found['driver_volume_type'] == 'nfs'
    with open(path_of(found), 'rb') as file:
        assert file.read(6) == b'LUKS\xba\xbe'
        assert file.seek(0, os.SEEK_END) > 1 << 30
    cinder.driver.terminate_connection(volume, HERE)
    gone(cinder)
