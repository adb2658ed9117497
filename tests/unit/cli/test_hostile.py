# SPDX-License-Identifier: Apache-2.0
"""Wrong, broken and hostile input: refused in one sentence."""

from __future__ import annotations

import os

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.conftest import Share

NAMES = ('../volume-1', 'a/b', '..', 'a\nb', '-x', '.hidden', '', 'a:b',
         'x' * 300, 'volume-1.info', '\x1b[31mred')


def one_sentence(err: str) -> bool:
    return err.count('\n') == 1 and 'Traceback' not in err


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('command', [
    ('chain', 'show', '--', '{}'), ('snapshot', 'create', '--', '{}', 's1'),
    ('snapshot', 'create', '--', '1', '{}')])
def test_names(run: Run, share: Share, name: str,
               command: tuple[str, ...]) -> None:
    share.volume(form='qcow2')
    run('--base-format', 'qcow2', 'snapshot', 'create', '1', 's1')
    before = share.files()
    done = run(*(word.format(name) for word in command))
    assert done.status in (2, 3), done
    assert one_sentence(done.err)
    assert '\x1b' not in done.err
    assert share.files() == before


@pytest.mark.parametrize('name', [*NAMES, 'a/b/c', '/proc/x/y'])
def test_names_of_clones(run: Run, chain: Share, name: str) -> None:
    before = chain.files()
    done = run('snapshot', 'clone', '--', '1', 'a',
               name.replace('../', './no/'))
    assert done.status == 3
    assert one_sentence(done.err)
    assert chain.files() == before


@pytest.mark.parametrize(('size', 'status'), [
    ('abc', 2), ('-1', 2), ('1Z', 2), ('', 2), ('9999999P', 2), ('1', 3),
    ('12M', 0)])
def test_sizes(run: Run, chain: Share, size: str, status: int) -> None:
    done = run('volume', 'extend', '1', size)
    assert done.status == status, done.err


def test_backing_outside_the_folder(run: Run, share: Share) -> None:
    share.qemu('qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-F', 'raw',
               '-b', '/etc/passwd', 'volume-1', '8M')
    done = run('--base-format', 'qcow2', 'chain', 'show', '1')
    assert done.status == 3
    assert one_sentence(done.err)
    assert 'volume-1' in done.err
    assert '/etc/passwd' in done.err


def test_symbolic_link(run: Run, share: Share) -> None:
    share.volume('other')
    os.symlink('other', share.folder / 'volume-1')
    done = run('--base-format', 'raw', 'snapshot', 'create', '1', 's1')
    assert done.status == 3
    assert one_sentence(done.err)
    assert set(share.files()) == {'other', 'volume-1'}


def test_a_raw_base_is_never_probed(run: Run, share: Share) -> None:
    base = share.volume()
    share.qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
               '/etc/passwd', '-F', 'raw', '-u', 'lure', '8M')
    lure = (share.folder / 'lure').read_bytes()
    with base.open('r+b') as file:
        file.write(lure)
    done = run('chain', 'show', '1')
    assert done.status == 3
    assert 'format' in done.err
    done = run('--base-format', 'raw', 'chain', 'show', '1', '-f', 'json')
    assert done.json['layers'][0]['format'] == 'raw'
    assert done.json['layers'][0]['backing'] is None


def test_another_format_than_the_pinned_one(run: Run, chain: Share) -> None:
    done = run('--base-format', 'qcow2', 'chain', 'show', '1')
    assert done.status == 3
    assert 'pinned' in done.err


def test_no_such_volume(run: Run, share: Share) -> None:
    done = run('--base-format', 'raw', 'chain', 'show', 'gone')
    assert done.status == 3
    assert done.err.endswith('volume-gone: there is no such file\n')


def test_a_volume_that_is_not_called_volume(run: Run, share: Share) -> None:
    share.volume('disk', 'qcow2')
    done = run('--base-format', 'qcow2', 'chain', 'show', 'disk', '-f',
               'json')
    assert done.json['volume'] == 'disk'


def test_debug_shows_the_traceback(run: Run, chain: Share) -> None:
    done = run('--debug', 'plan', '1', 'zz')
    assert done.status == 3
    assert 'Traceback' in done.err


@pytest.mark.parametrize('argv', [
    (), ('--share',), ('bogus',), ('snapshot', 'create'),
    ('chain', 'show'), ('chain', 'show', '1', '-f', 'xml'),
    ('chain', 'show', '1', '--dot', '--svg'),
    ('--base-format', 'vmdk', 'chain', 'show', '1'),
    ('chain', 'show', '1'), ('--share', '/nowhere', 'chain', 'show', '1'),
    ('job', 'list'), ('agent', 'ping'),
    ('--transport-url', 'no url', 'agent', 'ping'),
    ('--transport-url', 'bogus://x', 'job', 'list')])
def test_wrong_command_lines(bare: Run, argv: tuple[str, ...]) -> None:
    done = bare(*argv)
    assert done.status == 2
    assert done.err or done.out
    assert 'Traceback' not in done.err


def test_what_is_missing_is_named(bare: Run) -> None:
    assert bare('chain', 'show', '1').err == (
        'this works on the files of a share: give --share or set '
        'ASSISTED_SNAPSHOT_SHARE\n')
    assert bare('job', 'list').err == (
        'this asks the agent: give --transport-url or set '
        'ASSISTED_SNAPSHOT_TRANSPORT_URL\n')


def test_options_are_never_guessed_from_a_beginning(bare: Run) -> None:
    done = bare('--shar', '/', 'chain', 'show', '1')
    assert done.status == 2


def test_help(bare: Run) -> None:
    done = bare('--help')
    assert done.status == 0
    for command in ('snapshot create', 'chain repair', 'job bandwidth',
                    'plan', 'agent info', 'volume extend'):
        assert f'\n  {command} ' in done.out
    assert 'Exit status' in done.out
    assert 'SNAPSHOT' in bare('snapshot', 'delete', '--help').out
