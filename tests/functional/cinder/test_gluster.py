# SPDX-License-Identifier: Apache-2.0
"""The second driver on the same mixin, on a real Gluster volume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
import hashlib
from pathlib import Path
from typing import Any

from cinder import exception
import pytest

from tests.functional.cinder.lab.gluster import EXPORT
from tests.functional.cinder.lab.gluster import Gluster
from tests.functional.cinder.lab.world import World

PATH = 'assisted_snapshots.cinder_driver.gluster.GlusterfsDriver'


@pytest.fixture
def server(cinder_folder: Path) -> Iterator[Gluster]:
    """A server whose volume is mounted where the driver looks for it."""
    server = Gluster(cinder_folder / 'gluster')
    server.start()
    yield server
    server.stop()


@pytest.fixture
def driver(cinder: World, server: Gluster) -> Any:
    """The driver, set up."""
    digest = hashlib.md5(EXPORT.encode(), usedforsecurity=False).hexdigest()
    cinder.share = cinder.folder / 'gluster-mnt' / digest
    server.mount(cinder.share)
    (cinder.folder / 'gluster-shares').write_text(f'{EXPORT}\n')
    return cinder.make_driver(
        PATH, glusterfs_shares_config='{folder}/gluster-shares',
        glusterfs_mount_point_base='{folder}/gluster-mnt',
        nas_secure_file_operations='auto',
        nas_secure_file_permissions='auto')


def test_the_life_of_a_volume(cinder: World, driver: Any) -> None:
    """Every operation of a detached volume; every content compared."""
    assert (driver.configuration.nas_secure_file_operations
            == driver.configuration.nas_secure_file_permissions == 'true')
    volume = cinder.volume(driver=driver)
    cinder.write(volume, 1)
    first = cinder.snapshot(volume, driver=driver)
    one = cinder.content(volume)
    cinder.write(volume, 2)
    second = cinder.snapshot(volume, driver=driver)
    two = cinder.content(volume)
    cinder.write(volume, 3)
    assert one != two != cinder.content(volume) != one

    larger = cinder.from_snapshot(first, 2, driver=driver)
    assert cinder.content(larger) == replace(one, size=2 << 30)
    copy = cinder.clone(volume, driver=driver)
    assert cinder.content(copy) == cinder.content(volume)

    driver.revert_to_snapshot(cinder.context, cinder.fresh(volume),
                              cinder.fresh(second))
    assert cinder.content(volume) == two
    cinder.delete(first, driver=driver)
    assert cinder.content(volume) == two
    assert cinder.snapshot_content(second) == two
    cinder.delete(second, driver=driver)
    assert cinder.content(volume) == two
    for each in (volume, larger, copy):
        cinder.delete_volume(each, driver=driver)
    assert list(cinder.share.iterdir()) == []


def test_what_a_host_is_told(cinder: World, driver: Any) -> None:
    """Nova finds share, file and format."""
    volume = cinder.volume(driver=driver)
    cinder.snapshot(volume, driver=driver)
    cinder.reserve(volume)
    info = driver.initialize_connection(cinder.fresh(volume),
                                        {'host': 'compute-1'})
    assert info['driver_volume_type'] == 'glusterfs'
    assert info['data']['export'] == EXPORT
    assert info['data']['format'] == 'qcow2'
    assert info['mount_point_base'] == str(cinder.folder / 'gluster-mnt')


def test_capacity(cinder: World, driver: Any) -> None:
    """What is promised comes from Cinder's records."""
    cinder.volume(3, driver=driver)
    stats = driver.get_volume_stats(refresh=True)
    assert stats['provisioned_capacity_gb'] == 3
    assert 0 < stats['free_capacity_gb'] <= stats['total_capacity_gb']
    assert stats['storage_protocol'] == 'glusterfs'
    assert stats['thin_provisioning_support']
    with pytest.raises(exception.RemoteFSNoSuitableShareFound):
        cinder.volume(1 << 30, driver=driver)


@pytest.mark.usefixtures('cinder_folder')
def test_no_shares(cinder: World) -> None:
    """A missing list is named."""
    with pytest.raises(exception.RemoteFSException, match='gluster-nowhere'):
        cinder.make_driver(
            PATH, glusterfs_shares_config='{folder}/gluster-nowhere',
            glusterfs_mount_point_base='{folder}/gluster-mnt')
