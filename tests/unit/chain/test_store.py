# SPDX-License-Identifier: Apache-2.0
"""What is on the share after metadata were written, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
import resource

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import plan_delete
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import Pinned
from assisted_snapshots.chain.store import plan_details
from assisted_snapshots.chain.store import plan_of
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.chain.value import VolumeState

STATE = VolumeState('volume-1', Chain((
    Layer('volume-1', Format.RAW, 1024, 512),
    Layer('volume-1.s1', Format.QCOW2, 1024, 100, 'volume-1'),
    Layer('volume-1.s2', Format.QCOW2, 1024, 200, 'volume-1.s1'),
)), {'s1': 'volume-1.s1', 's2': 'volume-1.s2'})


# Only root can give files away.
OWNER = (4242, 4243) if os.geteuid() == 0 else (os.getuid(), os.getgid())


@pytest.fixture
def files(tmp_path: Path) -> VolumeFiles:
    return VolumeFiles(tmp_path, 'volume-1')


def test_info_is_byte_for_byte_what_upstream_writes(
        files: VolumeFiles) -> None:
    Store(files).write_info('volume-1.s2', {'s2': 'volume-1.s2',
                                            's1': 'volume-1.s1'})
    # cinder.volume.drivers.remotefs: json.dump(indent=1, sort_keys=True)
    assert files.info.read_bytes() == (
        b'{\n "active": "volume-1.s2",\n "s1": "volume-1.s1",\n'
        b' "s2": "volume-1.s2"\n}')


def test_nothing_to_read_is_no_error(files: VolumeFiles) -> None:
    assert Store(files).read_info() is None
    assert Store(files).read_journal() is None


def test_a_journal_reads_as_it_was_written(files: VolumeFiles) -> None:
    journal = Journal(
        {'volume-1': Pinned(Format.RAW),
         'volume-1.s1': Pinned(Format.QCOW2, encrypted=True)},
        {'s1': 'volume-1.s1'},
        Operation('delete', 's1', 'merge', True, {'a': [1]}))
    Store(files).write_journal(journal)
    assert Store(files).read_journal() == journal


@pytest.mark.parametrize('text, reason', [
    (b'', 'is truncated'),
    (b'{"version": 1', 'is truncated'),
    (b'[]', 'no JSON object'),
    (b'{"version": 2}', 'version 2 is unknown, this release reads 1'),
    (b'{"version": 1, "volume": "volume-2", "layers": {}, '
     b'"operation": null}', 'it is of volume'),
    (b'{"version": 1, "volume": "volume-1", "layers": '
     b'{"../x": {"format": "raw", "encrypted": false}}, '
     b'"operation": null}', 'slash'),
    (b'{"version": 1, "volume": "volume-1", "layers": '
     b'{"volume-1": {"format": "vmdk", "encrypted": false}}, '
     b'"operation": null}', 'vmdk'),
    (b'{"version": 1, "volume": "volume-1", "layers": {}}', 'operation'),
])
def test_a_journal_that_cannot_be_trusted(
        files: VolumeFiles, text: bytes, reason: str) -> None:
    files.journal.write_bytes(text)
    with pytest.raises((errors.BadJournal, errors.BadName), match=reason):
        Store(files).read_journal()
    assert files.journal.read_bytes() == text


def test_a_journal_that_is_a_link_is_not_followed(
        files: VolumeFiles, tmp_path: Path) -> None:
    files.journal.symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(errors.BadLayer, match='symbolic link'):
        Store(files).read_journal()


def test_a_replaced_file_keeps_owner_and_mode(files: VolumeFiles) -> None:
    files.info.write_text('{"active": "volume-1"}')
    os.chown(files.info, *OWNER)
    files.info.chmod(0o640)
    Store(files).write_info('volume-1', {})
    found = files.info.stat()
    assert (found.st_uid, found.st_gid) == OWNER
    assert found.st_mode & 0o777 == 0o640


def test_a_new_file_is_like_the_volume(files: VolumeFiles) -> None:
    files.base.touch(mode=0o606)
    files.base.chmod(0o606)
    os.chown(files.base, *OWNER)
    Store(files).write_journal(Journal())
    found = files.journal.stat()
    assert (found.st_uid, found.st_gid) == OWNER
    assert found.st_mode & 0o777 == 0o606


def test_what_an_earlier_write_left_is_no_obstacle(
        files: VolumeFiles, tmp_path: Path) -> None:
    victim = tmp_path / 'victim'
    victim.write_text('precious')
    (tmp_path / 'volume-1.info.tmp').symlink_to(victim)
    Store(files).write_info('volume-1', {})
    assert json.loads(files.info.read_text()) == {'active': 'volume-1'}
    assert victim.read_text() == 'precious'
    assert not (tmp_path / 'volume-1.info.tmp').exists()


def test_what_does_not_fit_is_not_left(files: VolumeFiles) -> None:
    """Or a full share would keep a file that nothing refers to."""
    store = Store(files)
    store.write_info(files.name, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            store.write_info(files.overlay('new'), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.read_info() == {'active': files.name}
    assert not [*files.folder.glob('*.tmp')]


def test_a_plan_survives_the_journal(files: VolumeFiles) -> None:
    plan = plan_delete(STATE, 's2', allowed={Direction.UP})
    store = Store(files)
    store.write_journal(Journal(operation=Operation(
        'delete', 's2', 'merge', False, plan_details(plan))))
    journal = store.read_journal()
    assert journal and journal.operation
    found = plan_of(files, journal.operation)
    assert found == plan
    assert (found.after, found.removed) == (plan.after, plan.removed)


@pytest.mark.parametrize('change', [
    {'merged': ['volume-1', 'volume-1.s2']}, {'merged': ['volume-1']},
    {'merged': []}, {'direction': 'sideways'}, {'formats': {}},
    {'before': ['volume-1', 'volume-2']}, {'before': ['volume-1', '../x']},
    {'snapshots_after': {'active': 'volume-1'}}, {'copy_bytes': 'many'},
])
def test_a_plan_that_was_tampered_with(
        files: VolumeFiles, change: dict[str, object]) -> None:
    details = plan_details(plan_delete(STATE, 's2'))
    operation = Operation('delete', 's2', 'merge', False, details | change)
    with pytest.raises((errors.BadJournal, errors.BadName)):
        plan_of(files, operation)
