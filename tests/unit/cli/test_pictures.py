# SPDX-License-Identifier: Apache-2.0
"""Pictures of chains and plans: text, Graphviz and SVG."""

from __future__ import annotations

import shutil
import subprocess
from xml.etree import ElementTree as ET

import pytest

from assisted_snapshots.chain.plan import plan_delete
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.cli import diagram
from assisted_snapshots.cli import picture
from assisted_snapshots.cli.view import Attachment
from assisted_snapshots.cli.view import ChainView
from assisted_snapshots.cli.view import plan_document

GIB = 1 << 30
MIB = 1 << 20


def state(*allocated: int, encrypted: bool = False) -> VolumeState:
    """A volume with a raw base and an overlay for each further number."""
    names = ['volume-1'] + [f'volume-1.s{n}'
                            for n in range(1, len(allocated))]
    layers = tuple(
        Layer(name, Format.QCOW2 if n or encrypted else Format.RAW, 4 * GIB,
              size, names[n - 1] if n else None, encrypted)
        for n, (name, size) in enumerate(zip(names, allocated, strict=True)))
    return VolumeState('volume-1', Chain(layers),
                       {f's{n}': names[n] for n in range(1, len(names))})


ATTACHED = Attachment('host-1', 'guest-1', 'vdb', True,
                      ('volume-1', 'volume-1.s1', 'volume-1.s2'))


def test_chain_picture() -> None:
    view = ChainView(state(20 * MIB, 16 * MIB, 1 << 20), ATTACHED)
    assert picture.plain(picture.draw_chain(view)) == """\
volume-1  4.0 GiB, 2 snapshots, 37.0 MiB on the share
in use by guest guest-1 (vdb) on host-1
├─ volume-1     raw      4.0 GiB   20.0 MiB used
│  ◆ snapshot s1
├─ volume-1.s1  qcow2    4.0 GiB   16.0 MiB used
│  ◆ snapshot s2
└─ volume-1.s2  qcow2    4.0 GiB    1.0 MiB used  ● active"""


def test_picture_of_a_volume_without_snapshots() -> None:
    text = picture.plain(picture.draw_chain(ChainView(state(MIB))))
    assert text == """\
volume-1  4.0 GiB, 0 snapshots, 1.0 MiB on the share
└─ volume-1  raw      4.0 GiB    1.0 MiB used  ● active"""


def test_luks_layers_are_shown() -> None:
    view = ChainView(state(1, 2, encrypted=True))
    text = picture.plain(picture.draw_chain(view))
    assert text.count(' luks ') == 2
    assert 'LUKS' in diagram.dot(view)


def test_an_output_that_takes_only_ascii_gets_ascii() -> None:
    view = ChainView(state(1, 2))
    lines = picture.draw_chain(view, picture.glyphs_for('ascii'), 30)
    assert picture.plain(lines).isascii()
    assert picture.glyphs_for('utf-8') is picture.UNICODE
    assert picture.glyphs_for(None) is picture.ASCII
    assert picture.glyphs_for('no-such') is picture.ASCII


def test_overlay_names_are_cut_where_the_terminal_is_narrow() -> None:
    view = ChainView(state(1, 2 << 20))
    text = picture.plain(picture.draw_chain(view, width=57))
    assert '─ volume-1 ' in text
    assert '─ ….s1 ' in text
    assert all(len(line) <= 57 for line in text.splitlines())


def test_a_guest_on_another_chain_is_pointed_out() -> None:
    view = ChainView(state(1, 2), ATTACHED, 'delete of s1 is unfinished')
    *_, other, doing = picture.plain(picture.draw_chain(view)).splitlines()
    assert other == ('the guest runs on another chain: '
                     'volume-1 ← volume-1.s1 ← volume-1.s2')
    assert doing == 'delete of s1 is unfinished'
    assert view.document()['attachment']['agrees'] is False


def test_document_of_a_chain_is_stable() -> None:
    document = ChainView(state(20, 16, 1), ATTACHED).document()
    assert list(document) == [
        'volume', 'virtual_size', 'allocated', 'active', 'layers',
        'snapshots', 'attachment', 'operation']
    assert document['layers'][1] == {
        'name': 'volume-1.s1', 'format': 'qcow2', 'virtual_size': 4 * GIB,
        'allocated': 16, 'backing': 'volume-1', 'encrypted': False,
        'active': False, 'snapshot': 's1'}
    assert document['snapshots'][0] == {
        'id': 's1', 'file': 'volume-1.s1', 'content': 'volume-1',
        'written_since': 16}
    assert document['attachment'] == {
        'host': 'host-1', 'domain': 'guest-1', 'device': 'vdb',
        'running': True, 'layers': list(ATTACHED.layers), 'job_id': None,
        'agrees': True}


def plan_text(sizes: tuple[int, ...], snapshot: str, attached: bool) -> str:
    plan = plan_delete(state(*sizes), snapshot, attached=attached)
    return picture.plain(picture.draw_plan(plan, snapshot, attached))


def test_plan_of_a_mid_chain_commit() -> None:
    assert plan_text((8 * MIB, 2 * MIB, MIB), 's1', True) == """\
delete snapshot s1 of volume-1, while a guest has it
  method     commit: volume-1.s1 is written into volume-1
  copies     at most 2.0 MiB down; up it would be 8.0 MiB
  unlinks    volume-1.s1
  re-points  volume-1.s2 to volume-1
  before     volume-1 ← volume-1.s1 ← volume-1.s2
  after      volume-1 ← volume-1.s2"""


@pytest.mark.parametrize(('sizes', 'snapshot', 'attached', 'method'), [
    ((8, 2), 's1', True, 'active commit: volume-1.s1 is written into '
                         'volume-1, then the guest pivots to it'),
    ((8, 2), 's1', False, 'commit: volume-1.s1 is written into volume-1'),
    ((2, 8), 's1', True, 'pull: volume-1 is copied into volume-1.s1'),
    ((2, 8, 1), 's1', False, 'pull: volume-1 is copied into volume-1.s1'),
])
def test_plan_says_the_method(sizes: tuple[int, ...], snapshot: str,
                              attached: bool, method: str) -> None:
    line = plan_text(sizes, snapshot, attached).splitlines()[1]
    assert line == f'  method     {method}'


def test_document_of_a_plan_is_stable() -> None:
    plan = plan_delete(state(8, 2, 1), 's1')
    assert plan_document(plan, 's1', False) == {
        'volume': 'volume-1', 'subject': 's1', 'attached': False,
        'method': 'commit', 'direction': 'down',
        'merged': ['volume-1', 'volume-1.s1'], 'survivor': 'volume-1',
        'removed': ['volume-1.s1'], 'child': 'volume-1.s2',
        'new_backing': None, 'changes_active': False,
        'before': ['volume-1', 'volume-1.s1', 'volume-1.s2'],
        'after': ['volume-1', 'volume-1.s2'],
        'snapshots_before': {'s1': 'volume-1.s1', 's2': 'volume-1.s2'},
        'snapshots_after': {'s2': 'volume-1.s2'},
        'copy_bytes': 2, 'other_bytes': 8}


def test_dot_is_graphviz_source() -> None:
    source = diagram.dot(ChainView(state(8, 2, 1), ATTACHED))
    assert '"volume-1.s2" -> "volume-1.s1";' in source
    assert '"snapshot s1" -> "volume-1" [style=dashed];' in source
    assert 'guest -> "volume-1.s2";' in source
    if shutil.which('dot'):
        drawn = subprocess.run(['dot', '-Tsvg'], input=source, text=True,
                               capture_output=True, check=True).stdout
        assert 'volume&#45;1.s1' in drawn


def test_svg_is_complete_and_escaped() -> None:
    guest = Attachment('host', '<&"guest', 'vdb', True, ATTACHED.layers)
    drawn = diagram.svg(ChainView(state(8, 2, 1), guest))
    root = ET.fromstring(drawn)  # noqa: S314
    texts = [e.text or '' for e in root.findall('.//{*}text')]
    assert any('<&"guest' in text for text in texts)
    assert {'volume-1', 'volume-1.s1', 'volume-1.s2', 'snapshot s1',
            'snapshot s2'} <= set(texts)
    rows = [float(e.get('y', 0)) for e in root.findall('.//{*}text')
            if e.get('font-weight') == 'bold'][1:]
    assert rows == sorted(rows), 'the active layer is on top'
    assert float(root.get('height', 0)) > max(rows)


def test_dot_escapes_what_libvirt_calls_a_guest() -> None:
    guest = Attachment('host', 'a"b\\c', 'vdb', True, ATTACHED.layers)
    source = diagram.dot(ChainView(state(8, 2, 1), guest))
    assert 'label="guest a\\"b\\\\c (vdb) on host"' in source
