# SPDX-License-Identifier: Apache-2.0
"""Which format is believed, and when none is."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType

import pytest

from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Pinned
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.cinder_driver import metadata

RAW, QCOW2 = Format.RAW, Format.QCOW2
PLAIN = bytes(4096)
MAGIC = b'QFI\xfb' + bytes(4092)


@pytest.fixture
def files(tmp_path: Path) -> VolumeFiles:
    return VolumeFiles(tmp_path, 'volume-1')


def pins(files: VolumeFiles, content: bytes, known: dict[str, str],
         encrypted: bool = False) -> Format | None:
    files.base.write_bytes(content)
    return metadata.pins(files, known, encrypted).get('volume-1')


def overlaid(files: VolumeFiles) -> None:
    files.info.write_text(json.dumps({'active': 'volume-1.s',
                                      's': 'volume-1.s'}))


def journal(files: VolumeFiles, form: Format) -> None:
    Store(files).write_journal(Journal(MappingProxyType(
        {'volume-1': Pinned(form)})))


def test_no_qcow2_header_proves_raw(files: VolumeFiles) -> None:
    # Upstream records qcow2 for what an image made raw.
    for known in ({}, {'format': 'raw'}, {'format': 'qcow2'},
                  {'format': 'qcow2', 'base_format': 'qcow2'}):
        assert pins(files, PLAIN, known) is RAW


def test_empty_file_is_raw(files: VolumeFiles) -> None:
    assert pins(files, b'', {'format': 'qcow2'}) is RAW


def test_a_guest_may_have_written_a_header(files: VolumeFiles) -> None:
    assert pins(files, MAGIC, {'format': 'raw'}) is RAW
    assert pins(files, MAGIC, {'format': 'qcow2'}) is QCOW2
    assert pins(files, MAGIC, {}) is None


def test_with_overlays_format_is_not_the_base_s(files: VolumeFiles) -> None:
    overlaid(files)
    assert pins(files, MAGIC, {'format': 'qcow2'}) is None
    assert pins(files, MAGIC, {'format': 'qcow2',
                               'base_format': 'raw'}) is RAW


def test_truncated_info_may_have_overlays(files: VolumeFiles) -> None:
    files.info.write_text('')
    assert pins(files, MAGIC, {'format': 'qcow2'}) is None


def test_encrypted_header_is_believed(files: VolumeFiles) -> None:
    # Upstream records raw for what it makes qcow2.
    assert pins(files, MAGIC, {'format': 'raw'}, encrypted=True) is QCOW2


def test_journal_that_any_record_agrees_with(files: VolumeFiles) -> None:
    journal(files, RAW)
    # Killed between the deletion of the last overlay and the record.
    assert pins(files, MAGIC, {'format': 'qcow2',
                               'base_format': 'raw'}) is RAW
    assert pins(files, MAGIC, {}) is RAW


def test_journal_that_no_record_agrees_with(files: VolumeFiles) -> None:
    journal(files, RAW)
    assert pins(files, MAGIC, {'format': 'qcow2'}) is QCOW2  # refused then
    journal(files, QCOW2)
    assert pins(files, MAGIC, {'format': 'raw'}) is RAW


def test_base_with_another_name_needs_nothing(files: VolumeFiles) -> None:
    assert metadata.pins(files, {'format': 'qcow2'}, False) == {}


def state(*formats: Format, snapshots: bool = True) -> VolumeState:
    names = [f'volume-1.{n}' if n else 'volume-1'
             for n in range(len(formats))]
    layers = tuple(Layer(name, form, 1024, 0, below) for name, form, below
                   in zip(names, formats, [None, *names], strict=False))
    return VolumeState('volume-1', Chain(layers), MappingProxyType(
        {name: name for name in names[1:]} if snapshots else {}))


@pytest.mark.parametrize(('known', 'found', 'changes'), [
    ({}, state(RAW), {'format': 'raw'}),
    ({'format': 'raw'}, state(RAW), {}),
    ({'format': 'raw'}, state(RAW, QCOW2),
     {'format': 'qcow2', 'base_format': 'raw'}),
    ({'format': 'qcow2', 'base_format': 'raw'}, state(RAW, QCOW2), {}),
    ({'format': 'qcow2', 'base_format': 'raw'}, state(RAW),
     {'format': 'raw'}),
    ({'format': 'qcow2', 'base_format': 'raw'}, state(QCOW2),
     {'base_format': 'qcow2'}),
    ({'format': 'qcow2'}, state(QCOW2), {}),
])
def test_records_follow_the_chain(known: dict[str, str], found: VolumeState,
                                  changes: dict[str, str]) -> None:
    assert metadata.changes(known, found) == changes
