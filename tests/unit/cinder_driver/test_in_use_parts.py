# SPDX-License-Identifier: Apache-2.0
"""Pure parts of what works on volumes in use."""

from __future__ import annotations

from pathlib import Path
import subprocess

from cinder import exception
from keystoneauth1 import exceptions as keystone
from novaclient import exceptions as nova_exceptions
import pytest

from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import nova_side
from assisted_snapshots.cinder_driver.evidence import Evidence
from assisted_snapshots.cinder_driver.evidence import Merging

BEFORE = ('volume-1', 'volume-1.a', 'volume-1.b')


@pytest.mark.parametrize(('merged', 'survivor', 'asked', 'after'), [
    (('volume-1', 'volume-1.a'), 'volume-1',
     {'file_to_merge': 'volume-1.a', 'merge_target_file': 'volume-1'},
     ('volume-1', 'volume-1.b')),
    (('volume-1.a', 'volume-1.b'), 'volume-1.b',
     {'file_to_merge': 'volume-1', 'merge_target_file': None},
     ('volume-1', 'volume-1.b')),
    (BEFORE, 'volume-1.b',
     {'file_to_merge': None, 'merge_target_file': None}, ('volume-1.b',)),
], ids=['commit', 'pull', 'full pull'])
def test_what_nova_is_asked(merged: tuple[str, ...], survivor: str,
                            asked: dict[str, str | None],
                            after: tuple[str, ...]) -> None:
    merge = Merging(BEFORE, merged, survivor, {})
    assert nova_side._files(merge) == asked
    assert merge.after == after


@pytest.mark.parametrize(('error', 'refused'), [
    (nova_exceptions.BadRequest(400), True),
    (nova_exceptions.Conflict(409), True),
    (nova_exceptions.ClientException(500), False),
    (keystone.Unauthorized(), True),
    (keystone.EndpointNotFound(), True),
    (keystone.ConnectFailure(), False),
    (keystone.BadGateway(), False),
    (exception.APITimeout(service='Nova'), False),
    (TimeoutError(), False),
], ids=lambda value: type(value).__name__)
def test_what_is_surely_refused(error: Exception, refused: bool) -> None:
    assert nova_side._is_refusal(error) is refused


@pytest.fixture
def files(tmp_path: Path) -> VolumeFiles:
    """A raw base with two overlays."""
    for name, below, form in (('volume-1', '', ''),
                              ('volume-1.a', 'volume-1', 'raw'),
                              ('volume-1.b', 'volume-1.a', 'qcow2')):
        over = ['-u', '-b', below, '-F', form] if below else []
        kind = 'qcow2' if below else 'raw'
        subprocess.run(['qemu-img', 'create', '-q', '-f', kind, *over, name,
                        '8M'], cwd=tmp_path, check=True)
    (tmp_path / 'volume-1.info').write_text(
        '{"active": "volume-1.b", "a": "volume-1.a", "b": "volume-1.b"}')
    return VolumeFiles(tmp_path, 'volume-1')


def test_nobody_there(files: VolumeFiles) -> None:
    evidence = Evidence(files)
    assert evidence.chain() is None
    assert evidence.below('volume-1.b') == BEFORE
    assert evidence.below('volume-1') == ('volume-1',)


def test_only_what_is_mapped_is_durable(files: VolumeFiles) -> None:
    merge = Merging(BEFORE, BEFORE[1:], 'volume-1.b', dict.fromkeys(
        BEFORE[1:], Format.QCOW2))
    evidence = Evidence(files)
    assert evidence.durable(merge)

    def write(name: str) -> None:
        subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write 1M 64k',
                        files.path(name)], check=True, capture_output=True)
    write('volume-1.a')
    assert not evidence.durable(merge)
    write('volume-1.b')
    assert evidence.durable(merge)
    assert not evidence.merged(merge)


def test_somebody_writes(files: VolumeFiles) -> None:
    with subprocess.Popen(['qemu-io', '-f', 'qcow2',
                           files.path('volume-1.b')],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, bufsize=0) as process:
        assert process.stdin and process.stdout
        process.stdin.write('length\n')
        while 'MiB' not in process.stdout.readline():
            continue
        evidence = Evidence(files)
        assert evidence.chain() == BEFORE
        assert evidence.moved('volume-1.b')
        assert not evidence.moved('volume-1.a')
        process.stdin.close()
        process.wait()
