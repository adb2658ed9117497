# SPDX-License-Identifier: Apache-2.0
"""Files that become volumes and stop being ones; never a guessed format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cinder import exception
from cinder import objects
import pytest

from tests.functional.cinder.lab.content import Content
from tests.functional.cinder.lab.content import digest
from tests.functional.cinder.lab.content import of
from tests.functional.cinder.lab.content import write
from tests.functional.cinder.lab.deployment import EXPORT
from tests.functional.cinder.lab.world import GIB
from tests.functional.cinder.lab.world import World
from tests.functional.lab import images

MIB = 1 << 20
Refused = exception.ManageExistingInvalidReference


def made(cinder: World, form: str, name: str = 'My disk.img',
         size: int = GIB) -> tuple[Path, Content]:
    """A file on the share, and what it holds."""
    path = cinder.share / name
    images.create(path, form, size)
    write(path, form, 0x42, MIB)
    return path, of(path, form)


def reference(name: str = 'My disk.img', **more: str) -> dict[str, str]:
    return {'source-name': f'{EXPORT}/{name}', **more}


def managed(cinder: World, ref: dict[str, str]) -> Any:
    """Manage a file as the volume manager does."""
    row = cinder.row()
    row.size = cinder.driver.manage_existing_get_size(row, ref)
    return cinder.settle(row, cinder.driver.manage_existing(row, ref))


@pytest.mark.parametrize(('form', 'more'), [
    ('raw', {}), ('raw', {'format': 'raw'}), ('qcow2', {'format': 'qcow2'})])
def test_there_and_back(cinder: World, form: str,
                        more: dict[str, str]) -> None:
    path, content = made(cinder, form)
    volume = managed(cinder, reference(**more))
    assert not path.exists()
    assert cinder.formats(volume) == {'format': form}
    assert cinder.content(volume) == content
    snapshot = cinder.snapshot(volume)
    cinder.write(volume, 0x43)
    cinder.audit(volume, snapshot)
    assert cinder.snapshot_content(snapshot) == content
    cinder.delete(snapshot)
    now = cinder.content(volume)
    assert now.bytes_at(0) == digest(0x43)
    left = cinder.names(volume)[0]
    cinder.driver.unmanage(cinder.fresh(volume))
    found = [entry.name for entry in cinder.share.iterdir()]
    assert found == [left]
    now_form = cinder.formats(volume)['format']
    assert of(cinder.share / left, now_form) == now
    objects.Volume.get_by_id(cinder.admin, volume.id).destroy()
    again = managed(cinder, reference(left, format=now_form))
    assert cinder.content(again) == now


def test_header_that_could_be_a_guest_s(cinder: World) -> None:
    path, content = made(cinder, 'qcow2', size=8 * MIB)
    with pytest.raises(Refused, match='say which by "format"'):
        managed(cinder, reference())
    with path.open('r+b') as file:
        file.truncate(GIB)
    volume = managed(cinder, reference(format='raw'))
    assert cinder.formats(volume) == {'format': 'raw'}
    assert cinder.content(volume) != content
    assert cinder.content(volume).size == GIB


@pytest.mark.parametrize(('said', 'match'), [
    ('qcow2', 'is not qcow2'), ('vmdk', 'volumes are raw or qcow2')])
def test_wrong_format(cinder: World, said: str, match: str) -> None:
    path, _ = made(cinder, 'raw')
    with pytest.raises(Refused, match=match):
        managed(cinder, reference(format=said))
    assert path.exists()


def test_another_kind_of_image(cinder: World) -> None:
    path = cinder.share / 'My disk.img'
    images.run('create', '-q', '-f', 'vmdk', path, '64M')
    with pytest.raises(Refused, match='is a vmdk image'):
        managed(cinder, reference())


def test_size_is_rounded_up(cinder: World) -> None:
    _, content = made(cinder, 'raw', size=GIB + MIB)
    volume = managed(cinder, reference())
    assert volume.size == 2
    assert cinder.content(volume) == content


def test_a_layer_is_not_a_volume(cinder: World) -> None:
    base, _ = made(cinder, 'raw', 'base')
    images.run('create', '-q', '-f', 'qcow2', '-b', base.name, '-F', 'raw',
               cinder.share / 'base.top')
    with pytest.raises(Refused, match='must stand alone'):
        managed(cinder, reference('base.top', format='qcow2'))
    with pytest.raises(Refused, match='lies on it'):
        managed(cinder, reference('base'))


def test_what_belongs_to_a_volume(cinder: World) -> None:
    volume = cinder.volume()
    cinder.snapshot(volume)
    for path in sorted(cinder.share.iterdir()):
        with pytest.raises(Refused):
            managed(cinder, reference(path.name, format='qcow2'))


@pytest.mark.parametrize('name', [
    '/etc/passwd', f'{EXPORT}/../secret', f'{EXPORT}/link',
    f'{EXPORT}/folder/secret', f'{EXPORT}/nothing', EXPORT, ''])
def test_nothing_outside_of_the_share(cinder: World, name: str) -> None:
    (cinder.folder / 'secret').write_bytes(bytes(MIB))
    (cinder.share / 'link').symlink_to(cinder.folder / 'secret')
    (cinder.share / 'folder').symlink_to(cinder.folder)
    with pytest.raises(Refused):
        managed(cinder, {'source-name': name})
    assert (cinder.folder / 'secret').exists()


def test_a_file_in_a_folder_of_the_share(cinder: World) -> None:
    (cinder.share / 'old').mkdir()
    _, content = made(cinder, 'raw', 'old/disk')
    volume = managed(cinder, reference('old/disk'))
    assert cinder.content(volume) == content


def test_volume_with_snapshots_is_not_unmanaged(cinder: World) -> None:
    volume = cinder.volume()
    snapshot = cinder.snapshot(volume)
    with pytest.raises(exception.VolumeIsBusy):
        cinder.driver.unmanage(volume)
    cinder.audit(volume, snapshot)


def test_list(cinder: World) -> None:
    made(cinder, 'raw', 'a')
    made(cinder, 'qcow2', 'b', 2 * GIB + 1)
    images.run('create', '-q', '-f', 'qcow2', '-b', 'a', '-F', 'raw',
               cinder.share / 'c')
    volume = cinder.volume()
    cinder.snapshot(volume)
    found = cinder.driver.get_manageable_volumes(
        [volume], None, 10, 0, ['reference'], ['asc'])
    told = [(entry['reference']['source-name'].removeprefix(f'{EXPORT}/'),
             entry['size'], entry['safe_to_manage'], entry['cinder_id'])
            for entry in found]
    assert told == [('a', 1, True, None), ('b', 3, True, None),
                    ('c', None, False, None),
                    (volume.name, 1, False, volume.id)]
    assert found[0]['extra_info'] is None
    assert 'say which' in found[1]['extra_info']
    assert 'stand alone' in found[2]['reason_not_safe']
