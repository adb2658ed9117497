# SPDX-License-Identifier: Apache-2.0
"""Cinder's requests, as upstream's Nova takes them, and what is asked for.

The inputs are those of upstream's own driver tests (``LibvirtVolume\
SnapshotTestCase``); where upstream's expectation is a defect, the opposite
is expected here.
"""

from __future__ import annotations

from typing import Any

import pytest

from assisted_snapshots.nova_hooks.errors import Refused
from assisted_snapshots.nova_hooks.requests import create_request
from assisted_snapshots.nova_hooks.requests import merge_request
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import Quiesce

VOLUME = '9e2f9c0c-7a52-4f3c-8a5f-0f4f3d6f7c11'
SNAPSHOT = 'aa7b2c2c-0b7c-43b1-bb1d-5d6a2b3a9d22'
LIVE = ('volume-v', 'volume-v.s1', 'volume-v.s2', 'volume-v.s3')


def create_info(**changes: Any) -> dict[str, Any]:
    """What Cinder sends for a new snapshot."""
    return {'type': 'qcow2', 'snapshot_id': SNAPSHOT,
            'new_file': 'volume-v.s4', **changes}


def delete_info(**changes: Any) -> dict[str, Any]:
    """What Cinder sends for a delete."""
    return {'type': 'qcow2', 'volume_id': VOLUME, 'file_to_merge': None,
            'merge_target_file': None, **changes}


def merge(live: tuple[str, ...] = LIVE, **changes: Any
          ) -> MergeRequest | None:
    """Translate a delete."""
    return merge_request(VOLUME, SNAPSHOT, delete_info(**changes), live)


def test_create() -> None:
    """One disk, quiesced where that is possible, and a report wanted."""
    made = create_request(VOLUME, create_info())
    disk, = made.disks
    assert (disk.volume_id, disk.snapshot_id, disk.new_file) == (
        VOLUME, SNAPSHOT, 'volume-v.s4')
    assert made.report
    assert made.origin == 'nova'
    assert made.quiesce is Quiesce.TRY


@pytest.mark.parametrize(('changes', 'named'), [
    ({'type': 'unknown'}, "type: 'unknown'"),
    ({'type': None}, 'type: None'),
    ({'snapshot_id': None}, 'snapshot_id'),
    ({'snapshot_id': 7}, 'snapshot_id'),
    ({'new_file': None}, 'new_file'),
    ({'new_file': '/etc/passwd'}, 'new_file'),  # upstream accepts it
    ({'new_file': '../volume-v.s4'}, 'new_file'),
    ({'new_file': 'a/b'}, 'new_file'),
])
def test_bad_create(changes: dict[str, Any], named: str) -> None:
    """The error names what is wrong."""
    with pytest.raises(Refused, match=named):
        create_request(VOLUME, create_info(**changes))


@pytest.mark.parametrize(('changes', 'merged', 'survivor'), [
    # the newest: what lies between the given file and the active layer
    ({'file_to_merge': 'volume-v.s1'}, LIVE[2:], LIVE[3]),
    ({'file_to_merge': 'volume-v'}, LIVE[1:], LIVE[3]),
    # the only one, or a flatten: everything into the active layer
    ({}, LIVE, LIVE[3]),
    # one in the middle, several at once, the oldest
    ({'file_to_merge': 'volume-v.s2', 'merge_target_file': 'volume-v.s1'},
     LIVE[1:3], LIVE[1]),
    ({'file_to_merge': 'volume-v.s2', 'merge_target_file': 'volume-v'},
     LIVE[:3], LIVE[0]),
    ({'file_to_merge': 'volume-v.s1', 'merge_target_file': 'volume-v'},
     LIVE[:2], LIVE[0]),
])
def test_merge(changes: dict[str, Any], merged: tuple[str, ...],
               survivor: str) -> None:
    """The run and the survivor are spelt out."""
    made = merge(**changes)
    assert made is not None
    assert (made.before, made.merged, made.survivor) == (LIVE, merged,
                                                         survivor)
    assert (made.kind, made.volume_id, made.subject) == (
        Kind.DELETE, VOLUME, SNAPSHOT)
    assert made.report
    assert made.origin == 'nova'


@pytest.mark.parametrize(('live', 'changes'), [
    (LIVE[:1], {}),
    (LIVE, {'file_to_merge': 'volume-v.s2'}),
    (('volume-v', 'volume-v.s3'), {'file_to_merge': 'volume-v'}),
])
def test_pulled_already(live: tuple[str, ...],
                        changes: dict[str, Any]) -> None:
    """A repeated pull finds nothing to do; it never takes the next layer."""
    assert merge(live, **changes) is None


@pytest.mark.parametrize(('changes', 'named'), [
    ({'type': 'raw'}, 'type'),
    ({'file_to_merge': 'volume-v.s9'}, 'volume-v.s9 is not in the chain'),
    ({'file_to_merge': 'volume-v.s9', 'merge_target_file': 'volume-v'},
     'volume-v.s9 is not in the chain'),
    ({'file_to_merge': 'volume-v.s1', 'merge_target_file': 'volume-v.s9'},
     'volume-v.s9 is not in the chain'),
    ({'file_to_merge': 'volume-v.s1', 'merge_target_file': 'volume-v.s2'},
     'is not below'),
    ({'file_to_merge': 'volume-v.s1', 'merge_target_file': 'volume-v.s1'},
     'is not below'),
    ({'file_to_merge': 'volume-v.s3', 'merge_target_file': 'volume-v.s2'},
     'active layer'),
    ({'file_to_merge': None, 'merge_target_file': 'volume-v'}, 'None'),
    ({'file_to_merge': 7}, '7 is not in the chain'),
])
def test_bad_merge(changes: dict[str, Any], named: str) -> None:
    """The error names what is wrong."""
    with pytest.raises(Refused, match=named):
        merge(**changes)


@pytest.mark.parametrize('key', ['file_to_merge', 'merge_target_file'])
def test_incomplete_merge(key: str) -> None:
    """A missing key is not a null."""
    info = delete_info()
    del info[key]
    with pytest.raises(Refused, match=key):
        merge_request(VOLUME, SNAPSHOT, info, LIVE)
