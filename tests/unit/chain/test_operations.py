# SPDX-License-Identifier: Apache-2.0
"""Operations on detached volumes: results, refusals, adoption, repair."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import shutil
import threading

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.header import read_header
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.value import Format
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import KIB
from tests.images import MIB
from tests.images import tool


@pytest.fixture(scope='module', params=['raw', 'qcow2'])
def made(request: pytest.FixtureRequest,
         tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A volume with three snapshots, extended after the second."""
    disk = Disk(tmp_path_factory.mktemp('made'), request.param)
    disk.make()
    disk.write((0, 6 * CLUSTER, 1))
    disk.take('s1')
    disk.write((2 * CLUSTER, CLUSTER, 2), (9 * CLUSTER + 512, 512, 3))
    disk.take('s2')
    disk.extend(2 * MIB)
    disk.write((MIB, 3 * CLUSTER, 4), (0, CLUSTER, 0))
    disk.take('s3')
    disk.write((4 * KIB, 4 * KIB, 5))
    return disk


@pytest.fixture
def disk(made: Disk, tmp_path: Path) -> Disk:
    """A copy of it, to be worked on."""
    return made.copy(tmp_path / 'share')


def snapshot(disk: Disk) -> dict[str, bytes]:
    """Return every file there is, but for the lock."""
    return {path.name: path.read_bytes()
            for path in disk.files.folder.iterdir()
            if path != disk.files.lock}


@pytest.mark.parametrize('order', ['123', '321', '213', '231'])
def test_delete_in_any_order(disk: Disk, order: str) -> None:
    for number in order:
        disk.operations().delete(f's{number}')
        del disk.snapshots[f's{number}']
        disk.verify()
    assert len(disk.operations().state().chain.layers) == 1


def test_backing_names_are_bare_and_formats_said(disk: Disk) -> None:
    disk.operations().delete('s2')
    names = disk.operations().state().chain.names
    for below, name in zip(names, names[1:], strict=False):
        header = read_header(disk.files.path(name))
        assert header.backing == below
        assert header.backing_format is disk.formats.get(below, Format.QCOW2)


@pytest.mark.parametrize('form', list(Format))
@pytest.mark.parametrize('size', [None, 4 * MIB])
def test_clone(disk: Disk, form: Format, size: int | None) -> None:
    target = disk.files.folder / 'volume-2'
    disk.operations().clone('s2', target, form, size)
    disk.verify(also={'volume-2', 'volume-2.journal',
                      'volume-2.lock'})
    copy = Disk(disk.files.folder, 'qcow2', name='volume-2')
    state = copy.unpinned().state()
    assert state.chain.active.format is form
    assert copy.content('volume-2', form) == disk.snapshots['s2'].ljust(
        size or MIB, b'\0')


def test_clone_elsewhere(disk: Disk, tmp_path: Path) -> None:
    target = tmp_path / 'a folder: with, odd letters'
    target.mkdir()
    disk.operations().clone('s1', target / 'copy', Format.RAW)
    assert (target / 'copy').read_bytes() == disk.snapshots['s1']
    assert os.listdir(target) == ['copy']
    assert (target / 'copy').stat().st_mode == disk.files.base.stat().st_mode


@pytest.mark.parametrize('name, error', [
    ('volume-1', errors.BadTarget), ('volume-1.s9', errors.BadName),
    ('volume-9', errors.BadTarget), ('x.info', errors.BadName),
    ('-x', errors.BadName), ('a\nb', errors.BadName)])
def test_clone_refuses_a_target(disk: Disk, name: str,
                                error: type[errors.ChainError]) -> None:
    (disk.files.folder / 'volume-9.journal').write_text('of another one')
    before = snapshot(disk)
    with pytest.raises(error):
        disk.operations().clone('s1', disk.files.folder / name)
    assert snapshot(disk) == before


def test_clone_does_not_follow_a_link(disk: Disk, tmp_path: Path) -> None:
    (disk.files.folder / 'volume-2').symlink_to(tmp_path / 'victim')
    with pytest.raises(errors.BadTarget, match='exists already'):
        disk.operations().clone('s1', disk.files.folder / 'volume-2')
    assert not (tmp_path / 'victim').exists()


def test_revert_keeps_the_size(disk: Disk) -> None:
    disk.operations().revert('s3')
    disk.now[:] = disk.snapshots['s3']
    disk.verify()
    disk.operations().delete('s3')
    disk.operations().revert('s2')
    del disk.snapshots['s3']
    disk.now[:] = disk.snapshots['s2'].ljust(2 * MIB, b'\0')
    disk.verify()


def test_revert_to_an_older_snapshot_is_refused(disk: Disk) -> None:
    before = snapshot(disk)
    with pytest.raises(errors.NotNewest, match='s3 is'):
        disk.operations().revert('s2')
    assert snapshot(disk) == before


def test_extend(disk: Disk) -> None:
    disk.extend(3 * MIB)
    disk.extend(3 * MIB)
    disk.verify()
    before = snapshot(disk)
    for size in (MIB, 3 * MIB + 1):
        with pytest.raises(errors.BadSize):
            disk.operations().extend(size)
    assert snapshot(disk) == before


def test_flatten_must_be_meant(disk: Disk) -> None:
    before = snapshot(disk)
    with pytest.raises(errors.HasSnapshots, match='s1, s2, s3'):
        disk.operations().flatten()
    assert snapshot(disk) == before
    disk.operations().flatten(delete_snapshots=True)
    disk.snapshots.clear()
    disk.verify()
    disk.operations().flatten()
    disk.verify()


def test_owner_and_mode_of_new_layers(disk: Disk) -> None:
    active = disk.operations().state().chain.active.name
    disk.files.path(active).chmod(0o646)
    disk.take('s4')
    assert disk.files.path('volume-1.s4').stat().st_mode & 0o777 == 0o646
    disk.operations().revert('s4')
    assert disk.files.path('volume-1.s4').stat().st_mode & 0o777 == 0o646


@pytest.mark.parametrize('act, error', [
    (lambda ops: ops.create('s2'), errors.SnapshotExists),
    (lambda ops: ops.create('../s'), errors.BadName),
    (lambda ops: ops.create('active'), errors.BadName),
    (lambda ops: ops.create('a\nb'), errors.BadName),
    (lambda ops: ops.delete('s9'), errors.SnapshotNotFound),
    (lambda ops: ops.revert('s9'), errors.SnapshotNotFound),
    (lambda ops: ops.plan('s9'), errors.SnapshotNotFound),
    (lambda ops: ops.clone('s9', Path('volume-9')), errors.SnapshotNotFound),
])
def test_refused_and_nothing_changed(
        disk: Disk, act: Callable[[Operations], object],
        error: type[errors.ChainError]) -> None:
    before = snapshot(disk)
    with pytest.raises(error):
        act(disk.operations())
    assert snapshot(disk) == before


def test_a_file_in_the_way_of_an_overlay_is_kept(disk: Disk) -> None:
    (disk.files.folder / 'volume-1.s4').write_text('what is this?')
    before = snapshot(disk)
    with pytest.raises(errors.Disagreement, match='volume-1.s4 exists'):
        disk.operations().create('s4')
    assert snapshot(disk) == before


def test_no_space(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(disk.files.folder)
    full = os.statvfs_result((*real[:4], 0, *real[5:]))
    monkeypatch.setattr(os, 'statvfs', lambda _: full)
    before = snapshot(disk)
    # The overlay of s3 holds what the layer below has no room for yet.
    with pytest.raises(errors.NoSpace, match='has 0 free'):
        disk.operations().delete('s2')
    with pytest.raises(errors.NoSpace):
        disk.operations().clone('s1', disk.files.folder / 'volume-2')
    assert snapshot(disk) == before


@pytest.mark.parametrize('command, act', [
    ('create', lambda ops, _: ops.create('s4')),
    ('create', lambda ops, _: ops.revert('s3')),
    ('commit', lambda ops, _: ops.delete('s3')),
    ('rebase', lambda ops, _: ops.delete('s2')),
    ('resize', lambda ops, _: ops.extend(4 * MIB)),
    ('convert', lambda ops, folder: ops.clone('s2', folder / 'volume-2')),
    ('resize', lambda ops, folder: ops.clone(
        's1', folder / 'volume-2', Format.RAW, 2 * MIB)),
])
def test_a_failure_that_cost_nothing_leaves_nothing(
        disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        command: str, act: Callable[[Operations, Path], object]) -> None:
    disk.write((MIB, 12 * CLUSTER, 8), (0, 12 * CLUSTER, 8))
    disk.operations().revert('s3')
    disk.now[:] = disk.snapshots['s3']
    disk.write((0, CLUSTER, 9))
    refuse(command, tmp_path, monkeypatch)
    with pytest.raises(errors.ImageToolFailed, match='refused'):
        act(disk.operations(), disk.files.folder)
    monkeypatch.undo()
    assert disk.operations().recover() == []
    disk.verify()
    assert disk.operations().state().snapshots.keys() == {'s1', 's2', 's3'}


def refuse(command: str, folder: Path,
           monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a qemu-img first that fails at one command."""
    script = folder / 'bin' / 'qemu-img'
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\n[ $1 != {command} ] || {{ echo refused >&2; exit 1; }}\n'
        f'exec {shutil.which("qemu-img")} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv('PATH', f'{script.parent}:{os.environ["PATH"]}')


def test_a_lock_of_the_caller_is_used(disk: Disk) -> None:
    taken = []

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        taken.append('in')
        yield
        taken.append('out')

    disk.operations(lock=lock()).create('s4')
    assert taken == ['in', 'out']


def test_another_operation_in_flight_is_named(disk: Disk) -> None:
    store = Store(disk.files)
    journal = store.read_journal()
    assert journal
    store.write_journal(Journal(journal.layers, journal.snapshots, Operation(
        'extend', 'volume-1', 'resize', False,
        {'file': 'volume-1.s3', 'size': 4 * MIB})))
    with pytest.raises(errors.OperationInFlight,
                       match='extend of volume-1 is unfinished'):
        disk.operations().delete('s1')
    assert 'unfinished' in disk.operations().check()[0].problem
    disk.operations().recover()
    disk.now += bytes(2 * MIB)
    disk.verify()


def test_an_operation_of_a_newer_release_is_left_alone(disk: Disk) -> None:
    Store(disk.files).write_journal(Journal(operation=Operation(
        'teleport', 's1', 'beam')))
    before = snapshot(disk)
    with pytest.raises(errors.BadJournal, match='teleport'):
        disk.operations().recover()
    assert snapshot(disk) == before


class TestAdoption:
    """Volumes made by upstream Cinder, which has no journal."""

    def test_everything_works_without_a_journal(self, disk: Disk) -> None:
        disk.files.journal.unlink()
        disk.operations().delete('s2')
        del disk.snapshots['s2']
        disk.verify()

    def test_the_child_pins_the_base(self, disk: Disk) -> None:
        disk.files.journal.unlink()
        assert disk.unpinned().state().chain.base.format is \
            disk.formats['volume-1']

    def test_a_lone_base_needs_a_format(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path, 'raw')
        disk.make()
        with pytest.raises(errors.BadLayer, match='no format is pinned'):
            disk.unpinned().create('s1')
        disk.take('s1')
        disk.verify()

    def test_a_wrong_format_is_refused(self, disk: Disk) -> None:
        other = (Format.QCOW2 if disk.kind == 'raw' else Format.RAW)
        before = snapshot(disk)
        with pytest.raises(errors.FormatMismatch, match='the caller'):
            Operations(disk.files, formats={'volume-1': other}).create('s4')
        assert snapshot(disk) == before

    def test_upstream_finds_what_it_expects(self, disk: Disk) -> None:
        disk.operations().delete('s1')
        info = json.loads(disk.files.info.read_bytes())
        state = disk.operations().state()
        assert info == {'active': state.chain.active.name, **state.snapshots}


class TestRepair:
    """A .info that upstream's in-place write left broken or lost."""

    @pytest.mark.parametrize('damage', [
        lambda path: path.unlink(), lambda path: path.write_text(''),
        lambda path: path.write_text(path.read_text()[:30])])
    @pytest.mark.parametrize('journal', [True, False])
    def test_rebuilt_from_headers(
            self, disk: Disk, damage: Callable[[Path], object],
            journal: bool) -> None:
        good = disk.files.info.read_bytes()
        damage(disk.files.info)
        if not journal:
            disk.files.journal.unlink()
        for act in (disk.operations().state,
                    lambda: disk.operations().create('s4')):
            with pytest.raises((errors.BadInfo, errors.Disagreement)):
                act()
        broken = snapshot(disk)
        told = disk.operations().recover(dry_run=True)
        assert snapshot(disk) == broken
        assert disk.operations().recover() == told
        assert 'rebuild volume-1.info' in told[0]
        assert disk.files.info.read_bytes() == good
        disk.verify()

    def test_the_journal_knows_better_than_the_names(
            self, disk: Disk) -> None:
        disk.write((0, 10 * CLUSTER, 7))
        disk.operations().delete('s3')
        del disk.snapshots['s3']
        good = disk.files.info.read_bytes()
        assert b'"s2": "volume-1.s3"' in good
        disk.files.info.write_text('{')
        disk.operations().recover()
        assert disk.files.info.read_bytes() == good
        disk.verify()

    def test_two_possible_active_layers_stop_it(self, disk: Disk) -> None:
        disk.files.info.unlink()
        shutil.copy(disk.files.path('volume-1.s3'),
                    disk.files.folder / 'volume-1.s4')
        before = snapshot(disk)
        with pytest.raises(errors.Disagreement, match='cannot be told'):
            disk.operations().recover()
        assert snapshot(disk) == before

    def test_a_journal_of_other_layers_stops_it(self, disk: Disk) -> None:
        disk.files.info.unlink()
        Store(disk.files).write_journal(Journal())
        before = snapshot(disk)
        with pytest.raises(errors.Disagreement, match='the journal disagree'):
            disk.operations().recover()
        assert snapshot(disk) == before

    def test_metadata_and_headers_disagreeing_stop_it(
            self, disk: Disk) -> None:
        Store(disk.files).write_info('volume-1.s2', {'s1': 'volume-1.s1',
                                                     's2': 'volume-1.s2'})
        before = snapshot(disk)
        for act in (disk.operations().recover, disk.operations().state,
                    lambda: disk.operations().delete('s1')):
            with pytest.raises(errors.Disagreement):
                act()
        assert snapshot(disk) == before

    def test_temporary_files_are_removed(self, disk: Disk) -> None:
        for name in ('volume-1.info.tmp', 'volume-1.s1.tmp', 'volume-2.tmp'):
            (disk.files.folder / name).write_text('cut')
        assert len(disk.operations().check()) == 2
        assert len(disk.operations().recover()) == 2
        disk.verify(also={'volume-2.tmp'})

    def test_a_sound_volume_needs_nothing(self, disk: Disk) -> None:
        before = snapshot(disk)
        assert disk.operations().recover() == []
        assert snapshot(disk) == before


class TestCheck:
    """What is found wrong."""

    def test_an_orphan(self, disk: Disk) -> None:
        (disk.files.folder / 'volume-1.orphan').write_text('?')
        [found] = disk.operations().check()
        assert found.file == 'volume-1.orphan'

    def test_leaked_clusters(self, disk: Disk) -> None:
        path = disk.files.path('volume-1.s3')
        with path.open('r+b') as file:
            file.seek(0, os.SEEK_END)
            end = file.tell()
            file.truncate(end + 2 * CLUSTER)
            header = read_header(path)
            file.seek(48)
            table = int.from_bytes(file.read(8), 'big')
            file.seek(table)
            block = int.from_bytes(file.read(8), 'big')
            file.seek(block + 2 * (end // header.cluster_size))
            file.write(b'\0\1')
        [found] = disk.operations().check()
        assert found.file == 'volume-1.s3'
        assert 'Leaked cluster' in found.problem

    def test_a_missing_layer(self, disk: Disk) -> None:
        disk.files.path('volume-1.s1').unlink()
        assert any('no such file' in found.problem
                   for found in disk.operations().check())


def test_headers_of_hostile_layers_are_refused_by_every_operation(
        disk: Disk) -> None:
    """The reader's own tests have the many ways to be hostile."""
    tool('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'raw', '-b',
         '/etc/hostname', 'volume-1.s1', cwd=disk.files.folder)
    before = snapshot(disk)
    ops = disk.operations
    for act in (lambda: ops().create('s4'), lambda: ops().delete('s1'),
                lambda: ops().delete('s3'), lambda: ops().revert('s3'),
                lambda: ops().extend(4 * MIB), lambda: ops().plan('s3'),
                lambda: ops().flatten(delete_snapshots=True),
                lambda: ops().clone('s3', disk.files.folder / 'volume-2')):
        with pytest.raises(errors.BadBacking, match='/etc/hostname'):
            act()
    assert snapshot(disk) == before


@pytest.mark.slow
def test_encrypted_layers_are_never_pulled_onto_a_base(
        tmp_path: Path) -> None:
    """qemu-img cannot; it would fail for ever."""
    disk = Disk(tmp_path, 'luks', 4 * MIB)
    disk.make()
    disk.take('s1')
    disk.write((CLUSTER, CLUSTER, 2))
    disk.take('s2')
    disk.write((0, 30 * CLUSTER, 3))
    disk.operations().delete('s2')
    del disk.snapshots['s2']
    disk.verify()


def test_two_clones_of_one_name(tmp_path: Path) -> None:
    """Of two volumes at the same time: one is made, whole."""
    disks = [Disk(tmp_path, 'qcow2', name=f'volume-{name}') for name in 'ab']
    for number, disk in enumerate(disks, 1):
        disk.make()
        disk.write((0, 8 * CLUSTER, number))
        disk.take('s')
    target = tmp_path / 'volume-c'
    told: list[str] = []

    def clone(disk: Disk, observer: Callable[[str], None]) -> None:
        try:
            disk.operations(observer=observer).clone('s', target)
            told.append(disk.files.name)
        except errors.BadTarget as exc:
            told.append(str(exc))

    other = threading.Thread(target=clone, args=(disks[1], lambda _step: None))

    def meanwhile(step: str) -> None:
        if step == 'flush':
            other.start()
            other.join(1)

    clone(disks[0], meanwhile)
    other.join()
    assert told == ['volume-a', f'{target}: exists already']
    assert disks[0].content(target.name) == disks[0].snapshots['s']
    assert [disk.operations().check() for disk in disks] == [[], []]
