# SPDX-License-Identifier: Apache-2.0
"""Volumes between backends, and the generic revert: Cinder's own code."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import hashlib
from pathlib import Path
import subprocess
import time
from typing import Any

from cinder import exception
from cinder import objects
import pytest

from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.views import gone
from tests.functional.cinder.lab.world import World
from tests.functional.lab import namespace

MIB = 1 << 20
GIB = 1 << 30
OTHER = '127.0.0.1:/others'


@pytest.fixture
def others(cinder: World) -> Iterator[Path]:
    """A second share, with what makes a backend of it."""
    share = cinder.folder / 'others'
    share.mkdir()
    (cinder.folder / 'shares-others').write_text(f'{OTHER}\n')
    digest = hashlib.md5(OTHER.encode(), usedforsecurity=False).hexdigest()
    mount = cinder.folder / 'mnt' / digest
    mount.mkdir()
    subprocess.run(['mount', '--bind', share, mount], check=True)
    yield share
    gone(cinder)
    namespace.unmount(mount)


def move(cinder: World, volume: Any, host: str, context: Any) -> Any:
    """Migrate a volume as the API asks for it; the volume afterwards."""
    volume = type(volume).get_by_id(context, volume.id)
    volume.update({'migration_status': 'starting',
                   'previous_status': volume.status})
    volume.save()
    cinder.manager.migrate_volume(context, volume, {'host': host}, True)
    # What is left of the source is deleted by a request of its own.
    while any(row.migration_status == 'deleting' for row in
              objects.VolumeList.get_all(cinder.admin)):
        time.sleep(0.1)
    return cinder.fresh(volume)


@pytest.mark.parametrize('cow', [True, False], ids=['to-qcow2', 'to-raw'])
def test_to_another_share(cinder: World, others: Path, cow: bool) -> None:
    """The content moves, whichever the formats are; so do the records."""
    cinder.make_manager(name='there', host='controller@there',
                        nfs_shares_config='{folder}/shares-others',
                        nfs_qcow2_volumes=cow)
    here = cinder.manager.driver
    driver = cinder.make_driver(nfs_qcow2_volumes=not cow)
    volume = cinder.volume(driver=driver)
    cinder.write(volume, 0x31, MIB)
    cinder.write(volume, 0x32, GIB - MIB)
    expected = cinder.content(volume)
    moved = move(cinder, volume, 'controller@there#there',
                 cinder.admin if cow else cinder.context)
    assert moved.migration_status == 'success'
    assert moved.provider_location == OTHER
    assert list(cinder.share.iterdir()) == []
    assert here.initialized
    disk = dataclasses.replace(cinder.disk(moved), folder=others)
    assert disk.active_format == ('qcow2' if cow else 'raw')
    assert content.of(disk.active, disk.active_format) == expected


def test_on_the_same_share(cinder: World) -> None:
    cinder.make_manager(name='there', host='controller@there')
    driver = cinder.make_driver(nfs_qcow2_volumes=True)
    assert cinder.manager.driver.initialized
    volume = cinder.volume(driver=driver)
    cinder.write(volume, 0x31, MIB)
    expected = cinder.content(volume)
    moved = move(cinder, volume, 'controller@there#there', cinder.context)
    assert moved.name_id != moved.id
    assert cinder.content(moved) == expected
    cinder.audit(moved)
    # It goes on living under that name.
    snapshot = cinder.snapshot(moved)
    cinder.write(moved, 0x41, MIB)
    cinder.audit(moved, snapshot)
    cinder.delete(snapshot)
    cinder.delete_volume(moved)
    assert list(cinder.share.iterdir()) == []


def test_generic_revert(cinder: World) -> None:
    """As for a reimage to a snapshot: what is zero there becomes zero."""
    manager = cinder.manager
    volume = cinder.volume(driver=manager.driver)
    cinder.write(volume, 0x11)
    first = cinder.snapshot(volume, driver=manager.driver)
    expected = cinder.content(volume)
    cinder.write(volume, 0x22)
    cinder.write(volume, 0x22, 9 * MIB)
    volume = cinder.become(volume, 'reverting')
    manager._revert_to_snapshot_generic(cinder.admin, volume, first)
    assert cinder.content(volume) == expected
    assert cinder.snapshot_content(first) == expected
    cinder.become(volume, 'available')
    cinder.audit(volume, first)
    gone(cinder)


def test_encrypted_is_refused(cinder: World) -> None:
    """Cinder would cut off the last bytes of the container."""
    volume = cinder.volume(encrypted=True)
    volume.migration_status = 'migrating'
    volume.save()
    with pytest.raises(exception.VolumeBackendAPIException,
                       match='last bytes'):
        cinder.driver.initialize_connection(
            cinder.fresh(volume), {'host': 'controller'})
    gone(cinder)
