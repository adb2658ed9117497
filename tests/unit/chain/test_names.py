# SPDX-License-Identifier: Apache-2.0
"""What may be a name, and whose file is whose."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import names

UUID = '3f2504e0-4f89-11d3-9a0c-0305e82c3301'


@pytest.mark.parametrize(('name', 'reason'), [
    ('', 'empty'),
    ('a/b', 'slash'),
    ('/etc/passwd', 'slash'),
    ('../volume-2', 'slash'),
    ('..', '".."'),
    ('volume-1..s1', '".."'),
    ('-rf', 'begins with "-"'),
    ('.hidden', 'begins with "."'),
    ('nbd:localhost', 'protocol'),
    ('json:{}', 'protocol'),
    ('a\nb', 'characters'),
    ('a\n', 'characters'),
    ('a\0b', 'characters'),
    ('a b', 'characters'),
    ('a,b', 'characters'),
    ('vol\xfcme', 'characters'),
    ('\ud800', 'characters'),
    ('volume-1.info', 'reserved'),
    ('volume-1.journal', 'reserved'),
    ('volume-1.lock', 'reserved'),
    ('volume-1.s1.tmp', 'reserved'),
    ('v' * 241, 'longer'),
    (None, 'not text'),
    (7, 'not text'),
    (b'volume', 'not text'),
])
def test_names_that_are_refused(name: object, reason: str) -> None:
    with pytest.raises(errors.BadName) as caught:
        names.check_name('backing file', name)
    assert reason in str(caught.value)
    assert repr(name) in str(caught.value)
    assert 'backing file' in str(caught.value)


@pytest.mark.parametrize('name', [
    f'volume-{UUID}', f'volume-{UUID}.{UUID}', 'v', 'v' * 240, 'a_b-c.d'])
def test_names_that_are_accepted(name: str) -> None:
    assert names.check_name('layer', name) == name


@pytest.mark.parametrize('name', ['active', 'info', 'journal', 'lock', 'tmp',
                                  'x.info', '../x', '', 'a/b', 'a\nb'])
def test_snapshot_ids_that_are_refused(name: str) -> None:
    with pytest.raises(errors.BadName, match='snapshot'):
        names.check_snapshot_id(name)


def test_snapshot_id_is_accepted() -> None:
    assert names.check_snapshot_id(UUID) == UUID


@given(st.text())
def test_an_accepted_name_stays_in_its_folder(name: str) -> None:
    try:
        names.check_name('layer', name)
    except errors.BadName:
        return
    path = Path('/share') / name
    assert path.parent == Path('/share')
    assert path.name == name
    assert not {':', ',', '\n', '\0'} & set(name)


def test_files_of_a_volume() -> None:
    files = names.VolumeFiles(Path('/share'), f'volume-{UUID}')
    assert files.id == UUID
    assert files.base == Path(f'/share/volume-{UUID}')
    assert files.info == Path(f'/share/volume-{UUID}.info')
    assert files.journal == Path(f'/share/volume-{UUID}.journal')
    assert files.lock == Path(f'/share/volume-{UUID}.lock')
    assert files.overlay('s1') == f'volume-{UUID}.s1'
    assert files.path(files.overlay('s1')) == files.folder / files.overlay(
        's1')


def test_id_of_a_volume_without_the_prefix() -> None:
    assert names.VolumeFiles(Path('/share'), 'disk').id == 'disk'


@pytest.mark.parametrize('name', ['', 'a/b', '../v', 'v.s1', 'v.info'])
def test_volume_names_that_are_refused(name: str) -> None:
    with pytest.raises(errors.BadName, match='volume'):
        names.VolumeFiles(Path('/share'), name)


def test_files_of_two_volumes_do_not_mix() -> None:
    files = names.VolumeFiles(Path('/share'), 'volume-1')
    assert files.owns('volume-1')
    assert files.owns('volume-1.s1')
    for other in ('volume-10', 'volume-10.s1', 'volume-', 'volume-1-s1'):
        assert not files.owns(other)
        with pytest.raises(errors.BadName, match='no file of volume-1'):
            files.path(other)


def test_overlay_that_is_too_long_is_refused() -> None:
    files = names.VolumeFiles(Path('/share'), 'v' * 200)
    with pytest.raises(errors.BadName, match='longer'):
        files.overlay('s' * 100)
