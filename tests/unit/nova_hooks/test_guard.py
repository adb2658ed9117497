# SPDX-License-Identifier: Apache-2.0
"""The guard on the start path, on real images."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
from typing import Any

import pytest

from assisted_snapshots.nova_hooks import guard
from assisted_snapshots.nova_hooks.definition import Source
from assisted_snapshots.nova_hooks.errors import MovedMeanwhile
from assisted_snapshots.nova_hooks.errors import StaleLayer

VOLUME = '9e2f9c0c-7a52-4f3c-8a5f-0f4f3d6f7c11'
BASE = f'volume-{VOLUME}'
SIZE = '4M'


class Mapping(dict[str, Any]):
    """Stands for Nova's mapping; counts what would be saved."""

    saved = 0

    def save(self) -> None:
        """Note it."""
        self.saved += 1


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder with a raw volume."""
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'raw', BASE, SIZE],
                   cwd=tmp_path, check=True)
    return tmp_path


def overlay(share: Path, name: str, backing: str, form: str) -> str:
    """Make an overlay, as Cinder prepares one."""
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', backing,
                    '-F', form, name, SIZE], cwd=share, check=True)
    return name


def written(share: Path, name: str) -> None:
    """Write to an overlay as a guest would."""
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 64k', name],
                   cwd=share, check=True, stdout=subprocess.DEVNULL)


def info(share: Path, active: str, **snapshots: str) -> None:
    """Write the .info file."""
    (share / f'{BASE}.info').write_text(
        json.dumps({'active': active, **snapshots}))


def connection(share: Path, name: str, form: str = 'qcow2'
               ) -> dict[str, Any]:
    """What Nova has of a volume once it is connected."""
    return {'driver_volume_type': 'nfs', 'serial': VOLUME,
            'data': {'export': 'server:/volumes', 'name': name,
                     'format': form, 'device_path': str(share / name)}}


def test_no_snapshots(share: Path) -> None:
    """A lone base may be started."""
    guard.check(connection(share, BASE, 'raw'))


def test_the_last_layer(share: Path) -> None:
    """So may the last overlay, whether .info knows it yet or not."""
    top = overlay(share, f'{BASE}.s1', BASE, 'raw')
    guard.check(connection(share, top))
    info(share, top, s1=top)
    guard.check(connection(share, top))


def test_a_layer_below(share: Path) -> None:
    """Not what .info says has an overlay."""
    top = overlay(share, f'{BASE}.s1', BASE, 'raw')
    info(share, top, s1=top)
    with pytest.raises(StaleLayer, match=f'{top} lies on it') as caught:
        guard.check(connection(share, BASE, 'raw'))
    assert VOLUME in str(caught.value)


def test_a_switch_nobody_wrote_down(share: Path) -> None:
    """Not what a guest has left, though .info does not know."""
    written(share, overlay(share, f'{BASE}.s1', BASE, 'raw'))
    with pytest.raises(StaleLayer, match='has been written to'):
        guard.check(connection(share, BASE, 'raw'))


def test_a_prepared_overlay(share: Path) -> None:
    """One that was prepared for a snapshot not taken does no harm."""
    overlay(share, f'{BASE}.s1', BASE, 'raw')
    guard.check(connection(share, BASE, 'raw'))


def test_a_removed_layer(share: Path) -> None:
    """Not one that is gone."""
    with pytest.raises(StaleLayer, match='no such file'):
        guard.check(connection(share, f'{BASE}.s1'))


def test_a_broken_info(share: Path) -> None:
    """With overlays there, a broken .info lets nothing start."""
    overlay(share, f'{BASE}.s1', BASE, 'raw')
    (share / f'{BASE}.info').write_text('')
    with pytest.raises(StaleLayer):
        guard.check(connection(share, BASE, 'raw'))


def test_other_volumes_do_not_matter(share: Path) -> None:
    """Neither files of other volumes nor bookkeeping are overlays."""
    other = f'{BASE[:-1]}2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'raw', other, SIZE],
                   cwd=share, check=True)
    overlay(share, f'{other}.s1', BASE, 'raw')
    (share / f'{BASE}.journal').write_text('{}')
    (share / f'{BASE}.lock').touch()
    guard.check(connection(share, BASE, 'raw'))


@pytest.mark.parametrize('data', [{}, {'device_path': '/dev/sdx'},
                                  {'name': 'pool/volume'}])
def test_what_is_no_file_on_a_share(data: dict[str, str]) -> None:
    """Other kinds of volumes are none of its business."""
    guard.check({'driver_volume_type': 'iscsi', 'data': data})


def definition(share: Path, name: str, form: str = 'qcow2') -> str:
    """A domain with the volume, a CD without a serial and a block disk."""
    return f"""<domain><devices>
      <disk type='file' device='disk'><driver name='qemu' type='{form}'/>
        <source file='{share / name}'/><serial>{VOLUME}</serial></disk>
      <disk type='file' device='cdrom'><target dev='sda'/></disk>
      <disk type='block'><source dev='/dev/x'/><serial>y</serial></disk>
    </devices></domain>"""


def test_a_mapping_that_lags_follows(share: Path) -> None:
    """The definition is the truth; the mapping is saved."""
    top = f'{BASE}.s1'
    mapping = Mapping(connection_info=connection(share, BASE, 'raw'))
    guard.follow(definition(share, top), [mapping])
    data = mapping['connection_info']['data']
    assert (data['name'], data['format'], data['device_path']) == (
        top, 'qcow2', str(share / top))
    assert mapping.saved == 1


def test_a_mapping_that_is_right_stays(share: Path) -> None:
    """Nothing is saved."""
    mapping = Mapping(connection_info=connection(share, BASE, 'raw'))
    guard.follow(definition(share, BASE, 'raw'), [mapping])
    assert mapping.saved == 0


def test_another_volumes_file_is_not_followed(share: Path) -> None:
    """A definition that names a stranger is not believed."""
    mapping = Mapping(connection_info=connection(share, BASE, 'raw'))
    guard.follow(definition(share, 'volume-other'), [mapping])
    assert mapping['connection_info']['data']['name'] == BASE
    assert mapping.saved == 0


def test_mappings_without_a_disk(share: Path) -> None:
    """A mapping that the domain does not have is left alone."""
    none = Mapping(connection_info=None)
    other = Mapping(connection_info={'serial': 'z', 'data': {}})
    guard.follow(definition(share, BASE), [none, other])
    assert none.saved == other.saved == 0


def test_a_destination_that_was_told_the_layer(share: Path) -> None:
    """Its folder may be another; of other disks nothing is said."""
    top = overlay(share, f'{BASE}.s1', BASE, 'raw')
    guard.check_moving(definition(share, top), {
        VOLUME: connection(share / 'elsewhere', top),
        'another': connection(share, BASE), 'empty': {}})


def test_a_destination_that_was_told_another(share: Path) -> None:
    """A snapshot was taken in between: it would open the layer below."""
    top = overlay(share, f'{BASE}.s1', BASE, 'raw')
    with pytest.raises(MovedMeanwhile, match=f'given {BASE}, .* on {top}'):
        guard.check_moving(definition(share, top),
                           {VOLUME: connection(share, BASE)})


def test_layers_of_mappings(share: Path) -> None:
    """Those that may be started; else none is."""
    top = overlay(share, f'{BASE}.s1', BASE, 'raw')
    mappings = [{'connection_info': connection(share, top)}, {},
                {'connection_info': {'serial': 'x', 'data': {}}}]
    assert guard.layers(mappings) == {VOLUME: Source(share / top, 'qcow2')}
    info(share, top, s1=top)
    with pytest.raises(StaleLayer):
        guard.layers([{'connection_info': connection(share, BASE)}])


def test_layers_that_are_being_merged(share: Path) -> None:
    """Writing is in the way of a start, reading is not."""
    top = overlay(share, f'{BASE}.s1', BASE, 'raw')
    xml = definition(share, top)
    assert guard.written_to(xml) is None
    for options, wanted in (('-r', None), ('', BASE)):
        with subprocess.Popen(
                ['qemu-io', '-f', 'raw', *options.split(), BASE], cwd=share,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
            assert user.stdin
            assert user.stdout
            user.stdin.write(b'read 0 512\n')
            user.stdin.flush()
            user.stdout.readline()
            found = guard.written_to(xml)
            assert (found and found.fields['file']) == wanted
            user.stdin.close()
