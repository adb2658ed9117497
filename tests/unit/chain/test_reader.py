# SPDX-License-Identifier: Apache-2.0
"""What is read from a sound folder, and what is refused in a hostile one."""

from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
import re
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import names
from assisted_snapshots.chain import reader
from assisted_snapshots.chain.value import Format

if TYPE_CHECKING:
    from tests.unit.chain.conftest import Share

MIB = 1 << 20
QCOW2 = {'volume-1': Format.QCOW2}
RAW = {'volume-1': Format.RAW}
FILES = names.VolumeFiles(Path('/share'), 'volume-1')

Damage = Callable[['Share'], object]


# Sound folders


@pytest.mark.parametrize('fmt', list(Format))
def test_a_volume_without_snapshots(share: Share, fmt: Format) -> None:
    (share.raw if fmt is Format.RAW else share.qcow2)()
    state = reader.read_chain(share.files, {'volume-1': fmt}, None)
    assert state.volume == 'volume-1'
    assert state.snapshots == {}
    layer, = state.chain.layers
    assert (layer.name, layer.format, layer.virtual_size, layer.backing) == (
        'volume-1', fmt, 4 * MIB, None)
    assert layer.allocated == share.files.base.stat().st_blocks * 512


@pytest.mark.parametrize('base', ['raw', 'qcow2'])
def test_a_chain(share: Share, base: str) -> None:
    info = share.snapshots(3, base=base)
    state = reader.read_chain(share.files, {}, info)
    assert state.chain.names == ('volume-1', 'volume-1.s1', 'volume-1.s2',
                                 'volume-1.s3')
    assert [layer.format for layer in state.chain.layers] == [
        base, 'qcow2', 'qcow2', 'qcow2']
    assert [layer.backing for layer in state.chain.layers] == [
        None, *state.chain.names[:-1]]
    assert state.snapshots == {k: v for k, v in info.items()
                               if k != 'active'}
    assert state.ordered_snapshots() == ('s1', 's2', 's3')


def test_pinned_formats_that_agree(share: Share) -> None:
    info = share.snapshots(1, base='raw')
    pins = {**RAW, 'volume-1.s1': Format.QCOW2}
    assert reader.read_chain(share.files, pins, info).chain.base.format == (
        Format.RAW)


@pytest.mark.slow
def test_an_encrypted_chain(share: Share) -> None:
    info = share.snapshots(1, luks=True)
    state = reader.read_chain(share.files, QCOW2, info)
    assert all(layer.encrypted for layer in state.chain.layers)


def test_a_chain_that_was_extended(share: Share) -> None:
    os.truncate(share.raw(), MIB + 100)
    share.qcow2('volume-1.s1', 2 * MIB, backing='volume-1', fmt='raw')
    share.qcow2('volume-1.s2', 3 * MIB, backing='volume-1.s1')
    state = reader.read_chain(share.files, {}, {
        'active': 'volume-1.s2', 's1': 'volume-1.s1', 's2': 'volume-1.s2'})
    assert state.chain.virtual_size == 3 * MIB
    assert [layer.virtual_size for layer in state.chain.layers] == [
        MIB + 100, 2 * MIB, 3 * MIB]


def test_a_volume_that_was_pulled_off_its_base(share: Share) -> None:
    """Upstream's full pull leaves the volume in its overlay."""
    share.qcow2('volume-1.s1')
    state = reader.read_chain(share.files, {}, {'active': 'volume-1.s1'})
    assert state.chain.names == ('volume-1.s1',)
    assert state.chain.base.format is Format.QCOW2


def test_a_guest_that_writes_a_qcow2_header_into_a_raw_base(
        share: Share) -> None:
    share.raw()
    share.qcow2('evil')
    share.run('qemu-img', 'rebase', '-u', '-b', '/etc/passwd', '-F', 'raw',
              'evil')
    share.patch('volume-1', 0, (share.folder / 'evil').read_bytes())
    base = reader.read_chain(share.files, RAW, None).chain.base
    assert (base.format, base.backing) == (Format.RAW, None)
    share.qcow2('volume-1.s1', backing='volume-1', fmt='raw')
    info = {'active': 'volume-1.s1', 's1': 'volume-1.s1'}
    base = reader.read_chain(share.files, {}, info).chain.base
    assert (base.format, base.backing) == (Format.RAW, None)


def test_the_deepest_chain(share: Share) -> None:
    info = deep(share, reader.MAX_DEPTH)
    chain = reader.read_chain(share.files, {}, info).chain
    assert len(chain.layers) == reader.MAX_DEPTH


def test_orphans_and_bookkeeping_are_no_layers(share: Share) -> None:
    info = share.snapshots(1)
    share.qcow2('volume-1.orphan')
    (share.folder / 'volume-1.text').write_text('not an image')
    for name in ('volume-1.journal', 'volume-1.lock', 'volume-1.s9.tmp',
                 'volume-10', 'volume-10.s1'):
        (share.folder / name).write_bytes(b'')
    state = reader.read_chain(share.files, QCOW2, info)
    found = dict(reader.strangers(share.files, state.chain))
    assert set(found) == {'volume-1.orphan', 'volume-1.text'}
    assert found['volume-1.orphan'] is not None
    assert found['volume-1.text'] is None


def test_a_file_of_an_operation_in_flight(share: Share) -> None:
    info = share.snapshots(1)
    share.qcow2('volume-1.s2', backing='volume-1.s1')
    with pytest.raises(errors.Disagreement):
        reader.read_chain(share.files, QCOW2, info)
    state = reader.read_chain(share.files, QCOW2, info,
                              ignore={'volume-1.s2'})
    assert state.chain.active.name == 'volume-1.s1'


# Hostile and broken folders: everything starts as base, s1, s2 and s3


def deep(share: Share, count: int) -> dict[str, str]:
    """Make a chain of so many layers, all but the lowest two by hand."""
    share.qcow2(cluster_size=4096)
    share.qcow2('volume-1.s0001', backing='volume-1', cluster_size=4096)
    sound = (share.folder / 'volume-1.s0001').read_bytes()
    at = share.number('volume-1.s0001', 8, 'Q')
    entries = {'s0001': 'volume-1.s0001'}
    for i in range(2, count):
        below, name = f'volume-1.s{i - 1:04}', f'volume-1.s{i:04}'
        image = bytearray(sound)
        image[19] = len(below)
        image[at:at + len(below)] = below.encode()
        (share.folder / name).write_bytes(image)
        entries[f's{i:04}'] = name
    return {'active': f'volume-1.s{count - 1:04}', **entries}


def rebase(name: str, backing: str, fmt: str = 'qcow2') -> Damage:
    return lambda share: share.run('qemu-img', 'rebase', '-u', '-b', backing,
                                   '-F', fmt, name)


def remade(name: str, **options: object) -> Damage:
    def make(share: Share) -> None:
        (share.folder / name).unlink()
        below = {'volume-1.s1': 'volume-1', 'volume-1.s2': 'volume-1.s1',
                 'volume-1.s3': 'volume-1.s2'}
        share.qcow2(name, backing=below[name],
                    **options)  # type: ignore[arg-type]
    return make


def as_link(share: Share) -> None:
    (share.folder / 'volume-1.s1').rename(share.folder / 'elsewhere')
    (share.folder / 'volume-1.s1').symlink_to('elsewhere')


def as_folder(share: Share) -> None:
    (share.folder / 'volume-1').unlink()
    (share.folder / 'volume-1').mkdir()


def other_volume(share: Share) -> None:
    share.qcow2('volume-2')
    rebase('volume-1.s1', 'volume-2')(share)


def longer_name(share: Share) -> None:
    share.qcow2('volume-10')
    rebase('volume-1.s1', 'volume-10')(share)


LAYERS = [
    (rebase('volume-1.s1', '/etc/passwd', 'raw'), 'volume-1.s1', 'slash'),
    (rebase('volume-1.s1', '../volume-1'), 'volume-1.s1', 'slash'),
    (rebase('volume-1.s1', 'nbd:localhost:1'), 'volume-1.s1', 'protocol'),
    (rebase('volume-1.s1', 'json:{"driver":"null-co"}'), 'volume-1.s1',
     'protocol'),
    (rebase('volume-1.s1', 'volume\n1'), 'volume-1.s1', 'characters'),
    (rebase('volume-1.s1', 'volume-1..s0'), 'volume-1.s1', r'"\.\."'),
    (as_link, 'volume-1.s1', 'symbolic link'),
    (as_folder, 'volume-1', 'regular file'),
    (lambda share: share.patch('volume-1.s1', 79, b'\x04'), 'volume-1.s1',
     'external data file'),
    (remade('volume-1.s2', data_file='out.img'), 'volume-1.s2',
     'external data file'),
    (lambda share: share.patch('volume-1.s1', 78, b'\x01'), 'volume-1.s1',
     'unknown incompatible features 0x100'),
    (lambda share: share.patch('volume-1.s2', 79, b'\x02'), 'volume-1.s2',
     'marked corrupt'),
    (lambda share: share.run('qemu-img', 'snapshot', '-c', 'x', 'volume-1'),
     'volume-1', 'internal snapshots'),
    (rebase('volume-1.s1', 'volume-1', 'raw'), 'volume-1',
     'header of volume-1.s1 says raw, but qcow2 is pinned'),
    (rebase('volume-1.s2', 'volume-1.s1', 'raw'), 'volume-1.s1',
     'header of volume-1.s2 says raw, but qcow2 is pinned'),
    (lambda share: (share.folder / 'volume-1').write_bytes(bytes(MIB)),
     'volume-1', 'not qcow2'),
    (remade('volume-1.s1', size=8 * MIB), 'volume-1.s2',
     'virtual size 4194304 is smaller than 8388608, that of volume-1.s1'),
    (remade('volume-1.s2', size=2 * MIB), 'volume-1.s2',
     'virtual size 2097152 is smaller'),
    (rebase('volume-1.s1', 'volume-1.s3'), 'volume-1.s1', 'loop'),
    (rebase('volume-1', 'volume-1'), 'volume-1', 'loop'),
    (lambda share: (share.folder / 'volume-1.s2').unlink(), 'volume-1.s2',
     'no such file'),
    (lambda share: (share.folder / 'volume-1').unlink(), 'volume-1',
     'no such file'),
    (lambda share: (share.folder / 'volume-1.s3').unlink(), 'volume-1.s3',
     'no such file'),
    (lambda share: os.truncate(share.folder / 'volume-1.s1', 0),
     'volume-1.s1', 'is empty'),
    (lambda share: os.truncate(share.folder / 'volume-1.s1', 600),
     'volume-1.s1', 'truncated'),
    (other_volume, 'volume-1.s1', 'no file of volume-1'),
    (longer_name, 'volume-1.s1', 'no file of volume-1'),
]


@pytest.mark.parametrize(
    ('damage', 'file', 'reason'), LAYERS,
    ids=[f'{i}-{reason}' for i, (_, _, reason) in enumerate(LAYERS)])
def test_layers_that_are_refused(share: Share, damage: Damage, file: str,
                                 reason: str) -> None:
    info = share.snapshots(3)
    damage(share)
    before = share.digest()
    pins = {**QCOW2, 'volume-1.s1': Format.QCOW2}
    with pytest.raises(errors.BadLayer, match=reason) as caught:
        reader.read_chain(share.files, pins, info)
    assert str(caught.value).startswith(f'{share.folder / file}: ')
    assert share.digest() == before


def test_a_raw_layer_above_the_base_is_refused(share: Share) -> None:
    """It would be a base, with the layers below it out of sight."""
    info = share.snapshots(2)
    pins = {**QCOW2, 'volume-1.s1': Format.RAW}
    rebase('volume-1.s2', 'volume-1.s1', 'raw')(share)
    with pytest.raises(errors.BadLayer, match='cannot be raw'):
        reader.read_chain(share.files, pins, info)


def test_a_raw_base_that_is_too_long_is_refused(share: Share) -> None:
    info = share.snapshots(1, base='raw')
    os.truncate(share.folder / 'volume-1', 5 * MIB)
    with pytest.raises(errors.BadLayer, match='is smaller than 5242880'):
        reader.read_chain(share.files, RAW, info)


@pytest.mark.slow
def test_a_base_without_encryption_is_refused(share: Share) -> None:
    share.qcow2()
    share.qcow2('volume-1.s1', backing='volume-1', luks=True)
    with pytest.raises(errors.BadLayer, match='volume-1 below is not'):
        reader.read_chain(share.files, QCOW2, {
            'active': 'volume-1.s1', 's1': 'volume-1.s1'})


@pytest.mark.slow
def test_an_overlay_without_encryption_is_refused(share: Share) -> None:
    share.qcow2(luks=True)
    share.qcow2('volume-1.s1', backing='volume-1')
    with pytest.raises(errors.BadLayer, match='is not encrypted, but'):
        reader.read_chain(share.files, QCOW2, {
            'active': 'volume-1.s1', 's1': 'volume-1.s1'})


def test_a_lone_base_without_a_format_is_refused(share: Share) -> None:
    share.qcow2()
    with pytest.raises(errors.BadLayer, match='no format is pinned') as caught:
        reader.read_chain(share.files, {}, None)
    assert str(share.files.base) in str(caught.value)


def test_a_chain_that_is_too_deep_is_refused(share: Share) -> None:
    info = deep(share, reader.MAX_DEPTH + 1)
    with pytest.raises(errors.BadLayer, match='longer than 200 layers'):
        reader.read_chain(share.files, {}, info)


@pytest.mark.parametrize(('change', 'reason'), [
    ({'s4': 'volume-1.s4'}, 'volume-1.s4, the file of snapshot s4 in '
     'volume-1.info, is not below volume-1.s3'),
    ({'s4': 'volume-1'}, 'the file of snapshot s4 .* is the base layer'),
    ({'s2': None}, 'volume-1.s2 is a layer, but of no snapshot'),
    ({'s3': None}, 'volume-1.s3 is a layer, but of no snapshot'),
    ({'active': 'volume-1.s2'}, 'volume-1.s3, the file of snapshot s3'),
    ({'active': 'volume-1.s2', 's3': None},
     'volume-1.s3 lies on volume-1.s2, but volume-1.info does not know it'),
    ({'active': 'volume-1', 's1': None, 's2': None, 's3': None},
     'volume-1.s1 lies on volume-1'),
])
def test_info_and_headers_that_disagree(
        share: Share, change: dict[str, str | None], reason: str) -> None:
    info = share.snapshots(3)
    told = {k: v for k, v in {**info, **change}.items() if v is not None}
    before = share.digest()
    with pytest.raises(errors.Disagreement, match=reason) as caught:
        reader.read_chain(share.files, QCOW2, told)
    assert str(caught.value).startswith('volume-1: ')
    assert 'every file is kept' in str(caught.value)
    assert share.digest() == before


def test_an_info_that_was_lost(share: Share) -> None:
    share.snapshots(2)
    share.files.info.unlink()
    with pytest.raises(errors.Disagreement, match='lies on volume-1'):
        reader.read_chain(share.files, QCOW2, None)


# .info


@pytest.mark.parametrize(('change', 'reason'), [
    ({'active': None}, 'names no active layer'),
    ({'active': '../volume-2'}, 'slash'),
    ({'active': 'volume-2'}, 'no file of volume-1'),
    ({'active': 'volume-10'}, 'no file of volume-1'),
    ({'active': 'volume-1\n'}, 'characters'),
    ({'s1': '/etc/passwd'}, 'slash'),
    ({'s1': 'volume-2.s1'}, 'no file of volume-1'),
    ({'s1': 'volume-1.info'}, 'reserved'),
    ({'s1': ''}, 'empty'),
    ({'../s1': 'volume-1.s1'}, 'slash'),
    ({'s\n1': 'volume-1.s1'}, 'characters'),
    ({'s..1': 'volume-1.s1'}, r'"\.\."'),
    ({'info': 'volume-1.s1'}, 'reserved'),
    ({'s2': 'volume-1.s1'}, 'two snapshots have the same file'),
])
def test_info_that_is_refused(change: dict[str, str | None],
                              reason: str) -> None:
    told = {k: v for k, v in {'active': 'volume-1.s1', 's1': 'volume-1.s1',
                              **change}.items() if v is not None}
    for call in (lambda: reader.parse_info(FILES, json.dumps(told).encode()),
                 lambda: reader.read_chain(FILES, QCOW2, told)):
        with pytest.raises(errors.BadInfo, match=reason) as caught:
            call()
        assert str(caught.value).startswith('/share/volume-1.info: ')


@pytest.mark.parametrize(('data', 'reason'), [
    (b'', 'is empty'),
    (b' \n', 'is empty'),
    (b'\0' * 100, 'not JSON'),
    (b'{', 'not JSON'),
    (b'{}', 'no active layer'),
    (b'[]', 'no active layer'),
    (b'null', 'no JSON object'),
    (b'"active"', 'no JSON object'),
    (b'[["active", "volume-1"]]', 'no JSON object'),
    (b'{"active": 1}', 'no JSON object'),
    (b'{"active": null}', 'no JSON object'),
    (b'{"active": {"a": "b"}}', 'no JSON object'),
    (b'{"active": ["volume-1"]}', 'no JSON object'),
    (b'{"active": "volume-1", "active": "volume-1"}', 'a key twice'),
    (b'{"active": "volume-1"} {}', 'not JSON'),
    (b'\xff\xfe', 'not JSON'),
    (b'[' * 100000, 'not JSON'),
    (b' ' * (1 << 20) + b'{}', 'too long'),
    (b'{"active": "\\ud800"}', 'characters'),
])
def test_info_that_cannot_be_parsed(data: bytes, reason: str) -> None:
    with pytest.raises(errors.BadInfo, match=reason):
        reader.parse_info(FILES, data)


def test_info_as_cinder_writes_it() -> None:
    wanted = {'active': 'volume-1.s2', 's1': 'volume-1.s1',
              's2': 'volume-1.s2'}
    data = json.dumps(wanted, indent=1, sort_keys=True).encode()
    assert reader.parse_info(FILES, data) == wanted
    for end in range(len(data)):
        with pytest.raises(errors.BadInfo):
            reader.parse_info(FILES, data[:end])


@given(st.one_of(st.binary(max_size=60), st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(['active', 's1', 'x/']), inner,
                      max_size=3)).map(lambda v: json.dumps(v).encode())))
def test_info_is_refused_or_sound(data: bytes) -> None:
    try:
        info = reader.parse_info(FILES, data)
    except errors.BadInfo:
        return
    assert all(re.fullmatch(r'volume-1(\.[\w.-]+)?', v)
               for v in info.values())


def test_a_layer_of_another_volume_is_not_started_from(share: Share) -> None:
    share.qcow2('volume-2')
    with pytest.raises(errors.BadName, match='no file of volume-1'):
        reader.read_layers(share.files, 'volume-2', {})
