# SPDX-License-Identifier: Apache-2.0
"""Whole operations on detached volumes, by the real command."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess

import pytest
import yaml

from tests.unit.cli.conftest import MIB
from tests.unit.cli.conftest import Run
from tests.unit.cli.conftest import Share


def test_create_makes_overlay_and_info(run: Run, share: Share) -> None:
    share.volume()
    done = run('--base-format', 'raw', 'snapshot', 'create', 'volume-1',
               's1', '-f', 'json')
    assert done.json == {'volume': 'volume-1', 'id': 's1',
                         'file': 'volume-1.s1', 'consistency': 'detached'}
    assert done.status == 0
    assert share.info() == {'active': 'volume-1.s1', 's1': 'volume-1.s1'}


def test_create_makes_up_an_id(run: Run, share: Share) -> None:
    share.volume(form='qcow2')
    done = run('--base-format', 'qcow2', 'snapshot', 'create', '1', '-f',
               'json')
    assert len(done.json['id']) == 36
    assert share.info()['active'] == f'volume-1.{done.json["id"]}'


def test_a_snapshot_that_is_there_already(run: Run, chain: Share) -> None:
    before = chain.files()
    done = run('snapshot', 'create', '1', 'b')
    assert (done.status, done.out) == (3, '')
    assert done.err == 'volume-1 already has snapshot b\n'
    assert chain.files() == before


def test_list(run: Run, chain: Share) -> None:
    done = run('snapshot', 'list', '1', '-f', 'json')
    assert [s['id'] for s in done.json] == ['a', 'b', 'c']
    assert list(done.json[0]) == ['id', 'file', 'content', 'written_since']
    assert done.json[0]['file'] == 'volume-1.a'
    assert done.json[0]['content'] == 'volume-1'
    assert done.json[0]['written_since'] > MIB
    table = run('snapshot', 'list', '1').out
    assert '| a  | volume-1.a | volume-1   | 1.' in table
    assert ' MiB ' in table


def test_show(run: Run, chain: Share) -> None:
    text = run('chain', 'show', '1').out
    assert text.startswith('volume-1  8.0 MiB, 3 snapshots, ')
    assert text.index('snapshot a') < text.index('snapshot b')
    assert text.endswith('● active\n')
    document = run('chain', 'show', '1', '-f', 'json').json
    assert [layer['format'] for layer in document['layers']] == [
        'raw', 'qcow2', 'qcow2', 'qcow2']
    assert document['virtual_size'] == 8 * MIB
    assert document['attachment'] is None
    assert yaml.safe_load(
        run('chain', 'show', '1', '-f', 'yaml').out) == document


@pytest.mark.parametrize(('option', 'start'), [
    ('--dot', 'digraph "volume-1" {'), ('--svg', '<svg xmlns=')])
def test_drawings(run: Run, chain: Share, option: str, start: str) -> None:
    done = run('chain', 'show', '1', option)
    assert done.status == 0
    assert done.out.startswith(start)


def test_plan_changes_nothing(run: Run, chain: Share) -> None:
    before = chain.files()
    document = run('plan', '1', 'b', '-f', 'json').json
    assert document['method'] == 'commit'
    assert document['after'] == ['volume-1', 'volume-1.a', 'volume-1.c']
    assert 'at most 1.' in run('plan', '1', 'b').out
    assert chain.files() == before


@pytest.mark.parametrize('order', ['abc', 'bca', 'cab', 'cba'])
def test_delete_keeps_every_other_content(run: Run, chain: Share,
                                          order: str) -> None:
    content = {s: chain.digest(low, form) for s, low, form in (
        ('a', 'volume-1', 'raw'), ('b', 'volume-1.a', 'qcow2'),
        ('c', 'volume-1.b', 'qcow2'))}
    now = chain.digest('volume-1.c')
    for number, snapshot in enumerate(order, 1):
        plan = run('plan', '1', snapshot, '-f', 'json').json
        done = run('snapshot', 'delete', '1', snapshot, '-f', 'json')
        assert (done.status, done.json) == (0, plan), done.err
        found = run('chain', 'show', '1', '-f', 'json').json
        assert [layer['name'] for layer in found['layers']] == plan['after']
        for kept in order[number:]:
            overlay = next(layer for layer in found['layers']
                           if layer['snapshot'] == kept)
            form = next(layer['format'] for layer in found['layers']
                        if layer['name'] == overlay['backing'])
            assert chain.digest(overlay['backing'], form) == content[kept]
        active = found['layers'][-1]
        assert chain.digest(active['name'], active['format']) == now
        assert run('chain', 'check', '1').status == 0


def test_delete_of_what_is_not_there(run: Run, chain: Share) -> None:
    before = chain.files()
    done = run('snapshot', 'delete', '1', 'zz')
    assert (done.status, done.err) == (
        3, 'volume-1 has no snapshot zz\n')
    assert chain.files() == before


@pytest.mark.parametrize('form', ['raw', 'qcow2'])
def test_clone(run: Run, chain: Share, form: str) -> None:
    before = chain.files()
    done = run('snapshot', 'clone', '1', 'b', 'volume-2', '--to', form, '-f',
               'json')
    assert done.status == 0, done.err
    assert done.json['file'] == str(chain.folder / 'volume-2')
    assert chain.digest('volume-2', form) == chain.digest('volume-1.a')
    assert run('chain', 'show', '2').status == 0, 'its format is pinned'
    after = chain.files()
    assert {name: after[name] for name in before} == before


def test_clone_larger_and_elsewhere(run: Run, chain: Share,
                                    tmp_path: Path) -> None:
    target = tmp_path / 'elsewhere'
    done = run('snapshot', 'clone', '1', 'a', target, '--to', 'raw',
               '--size', '16M')
    assert done.status == 0, done.err
    assert target.stat().st_size == 16 * MIB
    assert run('snapshot', 'clone', '1', 'a', target).status == 3
    assert run('snapshot', 'clone', '1', 'a', 'volume-1.x').status == 3
    assert run('snapshot', 'clone', '1', 'a', 'small', '--size',
               '1M').status == 3


def test_revert(run: Run, chain: Share) -> None:
    wanted = chain.digest('volume-1.b')
    assert run('snapshot', 'revert', '1', 'b').status == 3
    done = run('snapshot', 'revert', '1', 'c')
    assert done.status == 0, done.err
    assert chain.digest('volume-1.c') == wanted


def test_extend(run: Run, chain: Share) -> None:
    before = chain.digest('volume-1.b')
    done = run('volume', 'extend', '1', '12M', '-f', 'json')
    assert done.json == {'volume': 'volume-1', 'virtual_size': 12 * MIB}
    layers = run('chain', 'show', '1', '-f', 'json').json['layers']
    assert [layer['virtual_size'] for layer in layers] == [
        8 * MIB, 8 * MIB, 8 * MIB, 12 * MIB]
    assert chain.digest('volume-1.b') == before
    assert run('volume', 'extend', '1', '4M').status == 3


def test_flatten_needs_consent(run: Run, chain: Share) -> None:
    now = chain.digest('volume-1.c')
    before = chain.files()
    done = run('chain', 'flatten', '1')
    assert done.status == 3
    assert 'must be asked for' in done.err
    assert chain.files() == before
    done = run('chain', 'flatten', '1', '--delete-snapshots', '-f', 'json')
    layer, = done.json['layers']
    assert chain.digest(layer['name'], layer['format']) == now


def test_check_and_repair_a_lost_info(run: Run, chain: Share) -> None:
    before = chain.files()
    info = chain.folder / 'volume-1.info'
    info.write_text('{"active": "vol')
    shown = run('chain', 'show', '1')
    assert shown.status == 3
    assert 'volume-1.info' in shown.err
    assert 'chain repair' in shown.err
    checked = run('chain', 'check', '1', '-f', 'json')
    assert checked.status == 4
    assert 'volume-1.info' in checked.json['findings'][0]['problem']
    dry = run('chain', 'repair', '1', '--dry-run', '-f', 'json')
    assert dry.status == 0
    assert dry.json['actions']
    assert info.read_text() == '{"active": "vol'
    done = run('chain', 'repair', '1', '-f', 'json')
    assert (done.status, done.json['actions']) == (0, dry.json['actions'])
    assert chain.files() == before
    assert run('chain', 'repair', '1').out == (
        'volume-1: nothing to repair\n')


def test_a_third_state_needs_attention(run: Run, chain: Share) -> None:
    info = chain.folder / 'volume-1.info'
    content = chain.info()
    content['b'], content['c'] = 'volume-1.a', 'volume-1.b'
    del content['a']
    info.write_text(json.dumps(content))
    before = chain.files()
    for command in (('chain', 'show', '1'), ('plan', '1', 'b'),
                    ('snapshot', 'delete', '1', 'b')):
        done = run(*command)
        assert done.status == 4, done.err
        assert 'every file is kept' in done.err
    assert chain.files() == before


def test_a_volume_that_a_qemu_has_open(run: Run, chain: Share) -> None:
    held = subprocess.Popen(
        ['qemu-io', '-f', 'qcow2', chain.folder / 'volume-1.c'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert held.stdout is not None
        held.stdout.read(8)  # the prompt: it has the file open
        done = run('snapshot', 'delete', '1', 'c')
    finally:
        held.communicate(b'quit\n')
    assert done.status == 3
    assert 'in use' in done.err
    assert run('snapshot', 'delete', '1', 'c').status == 0
