# SPDX-License-Identifier: Apache-2.0
"""Migration between shares and formats, through two real volume managers."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
from pathlib import Path
import subprocess
import time
from typing import Any

from cinder import objects
import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import Store
from assisted_snapshots.cinder_driver import migrated
from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.world import POOL
from tests.functional.cinder.lab.world import World
from tests.functional.lab import namespace

EXPORT = '127.0.0.1:/other'
HOST = 'controller@other'
MIB = 1 << 20


@pytest.fixture
def other(cinder: World) -> Iterator[Path]:
    """A second share, mounted where os-brick looks for it."""
    share = cinder.folder / 'other'
    digest = hashlib.md5(EXPORT.encode(), usedforsecurity=False).hexdigest()
    mount = cinder.folder / 'mnt' / digest
    for folder in (share, mount):
        folder.mkdir()
    subprocess.run(['mount', '--bind', share, mount], check=True)
    (cinder.folder / 'other-shares').write_text(f'{EXPORT}\n')
    yield share
    namespace.unmount(mount)


def managers(cinder: World, here: dict[str, Any],
             there: dict[str, Any]) -> tuple[Any, Any]:
    """A manager for each share."""
    return (cinder.make_manager(**here), cinder.make_manager(
        host=HOST, nfs_shares_config='{folder}/other-shares', **there))


def migrate(cinder: World, manager: Any, volume: Any) -> Any:
    """Migrate a detached volume to the other backend."""
    row = objects.Volume.get_by_id(cinder.admin, volume.id)
    row.update({'migration_status': 'starting', 'status': 'maintenance',
                'previous_status': 'available'})
    row.save()
    manager.migrate_volume(cinder.admin, row, {'host': f'{HOST}#nfs',
                                               'cluster_name': None},
                           force_host_copy=True)
    limit = time.monotonic() + 60
    while len(objects.VolumeList.get_all(cinder.admin)) > 1:
        assert time.monotonic() < limit, 'the old files stay'
        time.sleep(0.1)
    return cinder.fresh(volume)


@pytest.mark.parametrize(('here', 'there'), [
    (False, True), (True, False), (True, True)])
def test_to_another_share(cinder: World, other: Path, here: bool,
                          there: bool) -> None:
    source, _ = managers(cinder, {'nfs_qcow2_volumes': here},
                         {'nfs_qcow2_volumes': there})
    volume = cinder.volume(driver=source.driver, host=POOL)
    cinder.write(volume, 0x42, MIB)
    snapshot = cinder.snapshot(volume, driver=source.driver)
    cinder.write(volume, 0x43, 2 * MIB)
    cinder.delete(snapshot, driver=source.driver)
    before = cinder.content(volume)
    moved = migrate(cinder, source, volume)
    assert moved.migration_status == 'success', moved
    assert moved.provider_location == EXPORT
    assert moved.name == f'volume-{volume.id}'
    assert sorted(path.suffix for path in other.iterdir()
                  if path.suffix not in ('.journal', '.lock')) == ['']
    form = cinder.formats(moved)['format']
    assert form == ('qcow2' if there else 'raw')
    assert content.of(other / moved.name, form) == before
    found = Store(VolumeFiles(other, moved.name)).read_journal()
    assert found is None or list(found.layers) == [moved.name]
    assert list(cinder.share.iterdir()) == []


def test_formats_are_in_step_for_every_later_operation(
        cinder: World, other: Path) -> None:
    source, target = managers(cinder, {'nfs_qcow2_volumes': False},
                              {'nfs_qcow2_volumes': True})
    volume = cinder.volume(driver=source.driver, host=POOL)
    cinder.write(volume, 0x42, MIB)
    moved = migrate(cinder, source, volume)
    cinder.share = other
    snapshot = cinder.snapshot(moved, driver=target.driver)
    cinder.write(moved, 0x44, 3 * MIB)
    cinder.audit(moved, snapshot)
    cinder.delete(snapshot, driver=target.driver)
    cinder.audit(moved)
    assert cinder.content(moved).bytes_at(MIB) == content.digest(0x42)
    assert cinder.content(moved).bytes_at(3 * MIB) == content.digest(0x44)
    cinder.delete_volume(moved, driver=target.driver)
    assert list(other.iterdir()) == []


@pytest.mark.parametrize('status', ['available', 'in-use'])
def test_on_the_same_share_the_name_stays(cinder: World,
                                          status: str) -> None:
    volume, new = cinder.volume(), cinder.volume()
    cinder.write(new, 0x42)
    update = cinder.driver.update_migrated_volume(
        cinder.admin, volume, new, status)
    assert update == {'_name_id': new.id,
                      'provider_location': new.provider_location}
    moved = cinder.settle(volume, update)
    assert cinder.content(moved).bytes_at(0) == content.digest(0x42)
    snapshot = cinder.snapshot(moved)
    cinder.audit(moved, snapshot)


def test_a_file_in_the_way_is_never_replaced(cinder: World,
                                             other: Path) -> None:
    driver = cinder.make_driver(host=HOST,
                                nfs_shares_config='{folder}/other-shares')
    volume, new = cinder.volume(), cinder.volume(driver=driver)
    (other / f'volume-{volume.id}').write_text("somebody else's")
    update = driver.update_migrated_volume(cinder.admin, volume, new,
                                           'available')
    assert update['_name_id'] == new.id
    assert (other / f'volume-{volume.id}').read_text() == "somebody else's"
    assert (other / f'volume-{new.id}').exists()


def test_rename_takes_the_journal_along(cinder: World) -> None:
    volume = cinder.clone(cinder.volume())
    old = VolumeFiles(cinder.share, volume.name)
    assert old.journal.exists()
    new = VolumeFiles(cinder.share, 'volume-new')
    migrated.rename(old, new)
    assert new.base.exists()
    found = Store(new).read_journal()
    assert found is not None and list(found.layers) == ['volume-new']
    assert [path for path in cinder.share.iterdir()
            if path.name.startswith(old.name)] == []


def test_base_of_another_name_is_not_renamed(cinder: World) -> None:
    driver = cinder.make_driver(nfs_qcow2_volumes=True)
    volume = cinder.volume(driver=driver)
    snapshot = cinder.snapshot(volume, driver=driver)
    old = VolumeFiles(cinder.share, volume.name)
    with pytest.raises(errors.BadTarget, match='has snapshots'):
        migrated.rename(old, VolumeFiles(cinder.share, 'volume-new'))
    cinder.audit(volume, snapshot)
