# SPDX-License-Identifier: Apache-2.0
"""Passphrases of encrypted volumes: from a file or a prompt, never argv."""

from __future__ import annotations

import os
from pathlib import Path
import pty
import shutil
import subprocess
import sys

import pytest

from tests.unit.cli.conftest import MIB
from tests.unit.cli.conftest import Run
from tests.unit.cli.conftest import Share

pytestmark = pytest.mark.slow

PASSPHRASE = 'correct horse'
OBJECT = ('--object', f'secret,id=luks,data={PASSPHRASE}')


@pytest.fixture(scope='module')
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Share:
    """An encrypted volume with one snapshot, and its data in both layers.

    Made once: QEMU measures the machine for each LUKS header.
    """
    share = Share(tmp_path_factory.mktemp('luks'))
    options = ('encrypt.format=luks,encrypt.key-secret=luks,'
               'encrypt.iter-time=10')
    share.qemu('qemu-img', 'create', '-q', *OBJECT, '-f', 'qcow2', '-o',
               options, 'volume-1', 8 * MIB)
    share.qemu('qemu-img', 'create', '-q', *OBJECT, '-u', '-f', 'qcow2',
               '-b', 'volume-1', '-F', 'qcow2', '-o', options,
               'volume-1.s1', 8 * MIB)
    for number, name in enumerate(('volume-1', 'volume-1.s1'), 1):
        share.qemu('qemu-io', *OBJECT, '--image-opts', '-c',
                   f'write -P {number} {number}M 1M', opened(name))
    (share.folder / 'volume-1.info').write_text(
        '{\n "active": "volume-1.s1",\n "s1": "volume-1.s1"\n}')
    return share


@pytest.fixture
def luks(share: Share, pattern: Share) -> Share:
    """A copy of the encrypted volume."""
    shutil.copytree(pattern.folder, share.folder, dirs_exist_ok=True)
    return share


def opened(name: str) -> str:
    backing = 'backing.' if name.endswith('.s1') else ''
    return (f'driver=qcow2,file.filename={name},encrypt.key-secret=luks,'
            + (f'{backing}encrypt.key-secret=luks' if backing else ''
               )).rstrip(',')


def check_content(share: Share) -> None:
    """Both MiBs are in the one layer that is left."""
    for number in (1, 2):
        told = share.qemu('qemu-io', *OBJECT, '--image-opts', '-c',
                          f'read -P {number} {number}M 1M',
                          opened('volume-1'))
        assert 'failed' not in told


def test_show_needs_no_passphrase(run: Run, luks: Share) -> None:
    done = run('chain', 'show', '1')
    assert done.status == 0
    assert done.out.count(' luks ') == 2


def test_without_a_terminal_a_file_is_asked_for(run: Run,
                                                luks: Share) -> None:
    before = luks.files()
    done = run('snapshot', 'delete', '1', 's1')
    assert (done.status, done.err) == (
        2, 'passphrase of volume-1: it is encrypted, give --secret-file\n')
    assert luks.files() == before


def test_delete_with_a_file(run: Run, luks: Share, tmp_path: Path) -> None:
    secret = tmp_path / 'secret'
    secret.write_text(f'{PASSPHRASE}\n')
    done = run('--secret-file', secret, 'snapshot', 'delete', '1', 's1')
    assert done.status == 0, done.err
    check_content(luks)


@pytest.mark.parametrize('text', [None, '', '\n'])
def test_a_file_that_is_none(run: Run, luks: Share, tmp_path: Path,
                             text: str | None) -> None:
    secret = tmp_path / 'secret'
    if text is not None:
        secret.write_text(text)
    done = run('--secret-file', secret, 'snapshot', 'delete', '1', 's1')
    assert done.status == 2
    assert done.err.startswith('passphrase of volume-1: ')
    assert done.err.count('\n') == 1


def test_a_wrong_passphrase_loses_nothing(run: Run, luks: Share,
                                          tmp_path: Path) -> None:
    secret = tmp_path / 'secret'
    secret.write_text('wrong')
    done = run('--secret-file', secret, 'snapshot', 'delete', '1', 's1')
    assert done.status == 1, done.err
    assert 'wrong' not in done.err
    secret.write_text(PASSPHRASE)
    done = run('--secret-file', secret, 'snapshot', 'delete', '1', 's1')
    assert done.status == 0, done.err
    check_content(luks)


def test_delete_with_a_prompt(luks: Share) -> None:
    keyboard, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, '-m', 'assisted_snapshots.cli', '--share',
         str(luks.folder), 'snapshot', 'delete', '1', 's1'],
        stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, text=True,
        start_new_session=True)
    os.close(terminal)
    shown = b''
    while b'Passphrase of volume-1: ' not in shown:
        shown += os.read(keyboard, 1024)
    os.write(keyboard, f'{PASSPHRASE}\n'.encode())
    try:
        while piece := os.read(keyboard, 1024):
            shown += piece
    except OSError:  # Linux says EIO at its end
        pass
    os.close(keyboard)
    out, _ = child.communicate()
    assert child.returncode == 0, shown
    assert 'snapshot s1 of volume-1 deleted' in out
    assert PASSPHRASE.encode() not in shown, 'not echoed'
    check_content(luks)
