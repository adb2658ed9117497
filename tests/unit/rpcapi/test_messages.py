# SPDX-License-Identifier: Apache-2.0
"""What is sent arrives as it was; what is wrong is refused by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import messages as m

ids = st.from_regex(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,20}\Z', fullmatch=True)
files = ids.filter(lambda name: '..' not in name)
numbers = st.integers(0, (1 << 63) - 1)
texts = st.text(max_size=20)
times = st.floats(0, 4e9)
layers = st.lists(files, min_size=1, max_size=5, unique=True).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts
    | st.sampled_from(['..', '../x', '/etc/passwd', '-x', 'a/b', 'a\n', 'a\0',
                       '.x', '', 'x' * 300]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(texts, inner, max_size=3), max_leaves=6)


@st.composite
def create_requests(draw: st.DrawFn) -> m.CreateRequest:
    count = draw(st.integers(1, 4))
    columns = [draw(st.lists(what, min_size=count, max_size=count,
                             unique=True)) for what in (ids, ids, files)]
    disks = tuple(m.SnapshotDisk(*row) for row in zip(*columns, strict=True))
    return m.CreateRequest(disks, draw(st.sampled_from(m.Quiesce)),
                           draw(st.booleans()))


@st.composite
def merge_requests(draw: st.DrawFn) -> m.MergeRequest:
    before = tuple(draw(st.lists(files, min_size=2, max_size=8, unique=True)))
    low = draw(st.integers(0, len(before) - 2))
    high = draw(st.integers(low + 1, len(before) - 1))
    ends = [low, high] if high == len(before) - 1 else [low]
    return m.MergeRequest(
        draw(st.sampled_from([m.Kind.DELETE, m.Kind.FLATTEN])), draw(ids),
        draw(ids), before, before[low:high + 1],
        before[draw(st.sampled_from(ends))], draw(numbers),
        draw(st.booleans()))


jobs = st.builds(
    m.Job, id=ids, kind=st.sampled_from(m.Kind),
    volumes=st.lists(ids, min_size=1, max_size=3).map(tuple),
    subjects=st.lists(ids, min_size=1, max_size=3).map(tuple),
    domain=texts, state=st.sampled_from(m.State),
    condition=st.sampled_from(m.Condition), paused=st.booleans(),
    revision=numbers, done_bytes=numbers, total_bytes=numbers,
    bandwidth=numbers, method=texts,
    chains=st.dictionaries(ids, layers, max_size=3), consistency=texts,
    note=texts, error_code=texts, error=texts, created=times, updated=times)
chains = st.builds(
    m.LiveChain, ids, texts, texts, st.booleans(),
    st.lists(st.builds(m.LiveLayer, files, texts), min_size=1,
             max_size=4).map(tuple), st.booleans(), texts, texts)
infos = st.builds(m.AgentInfo, texts, texts, texts, texts, texts, texts,
                  numbers)
growths = st.builds(m.Extended, ids, texts, texts, numbers)
any_message = st.one_of(create_requests(), merge_requests(), jobs, chains,
                        infos, growths)


def sent(message: Any) -> Any:
    """What the other side of the broker is given."""
    return json.loads(json.dumps(message.to_wire()))


@given(any_message)
def test_arrives_as_it_was_sent(message: Any) -> None:
    assert type(message).from_wire(sent(message)) == message


@given(any_message, st.dictionaries(
    texts.filter(lambda key: key.startswith('new')), json_values))
def test_keys_of_a_newer_peer_are_ignored(message: Any, more: Any) -> None:
    assert type(message).from_wire(sent(message) | more) == message


@given(any_message)
def test_missing_optional_keys_take_their_defaults(message: Any) -> None:
    wire = sent(message)
    optional = {f.name: f for f in dataclasses.fields(message)
                if f.default is not dataclasses.MISSING
                or f.default_factory is not dataclasses.MISSING}
    for name in optional:
        del wire[name]
    found = type(message).from_wire(wire)
    for name, f in optional.items():
        default = (f.default_factory()
                   if f.default_factory is not dataclasses.MISSING
                   else f.default)
        assert getattr(found, name) == default


@given(any_message, st.data())
def test_hostile_field_is_refused_or_harmless(message: Any,
                                              data: st.DataObject) -> None:
    wire = sent(message)
    field = data.draw(st.sampled_from(sorted(wire)))
    wire[field] = data.draw(json_values)
    try:
        found = type(message).from_wire(wire)
    except errors.InvalidRequest as exc:
        assert str(exc)
    else:
        # What was let through is what a well-behaved peer could have sent.
        assert type(message).from_wire(sent(found)) == found


@given(any_message.map(type), json_values)
def test_rubbish_is_refused(kind: Any, rubbish: Any) -> None:
    if isinstance(rubbish, dict) and kind is m.AgentInfo:
        rubbish = 'an empty object is a poor but valid answer'
    with pytest.raises(errors.InvalidRequest):
        kind.from_wire(rubbish)


@pytest.mark.parametrize('name', [
    '', '.', '..', '../x', '/x', 'a/b', 'a..b', '-rf', '.hidden', 'a\n',
    'a\0b', 'a b', 'ä', 'x' * 256, 7, None, ['a'], b'a', True])
def test_names_that_are_not_bare_files(name: object) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        m.check_file(name, 'new_file')
    assert caught.value.kwargs['field'] == 'new_file'


def merge(**changes: Any) -> dict[str, Any]:
    return {'kind': 'delete', 'volume_id': 'v', 'subject': 's',
            'before': ['a', 'b', 'c'], 'merged': ['a', 'b'],
            'survivor': 'a'} | changes


@pytest.mark.parametrize(('field', 'changes'), [
    ('kind', {'kind': 'create'}),
    ('kind', {'kind': 'destroy'}),
    ('before', {'before': ['a', 'b', 'a']}),
    ('before', {'before': ['a']}),
    ('before', {'before': 'abc'}),
    ('before[1]', {'before': ['a', '/b']}),
    ('merged', {'merged': ['a', 'c']}),
    ('merged', {'merged': ['b', 'a']}),
    ('merged', {'merged': ['x', 'y']}),
    ('merged', {'merged': ['c', 'd']}),
    ('survivor', {'survivor': 'c'}),
    ('survivor', {'merged': ['a', 'b', 'c'], 'survivor': 'b'}),
    ('survivor', {'survivor': 'b'}),
    ('bandwidth', {'bandwidth': -1}),
    ('bandwidth', {'bandwidth': 1.5}),
    ('bandwidth', {'bandwidth': True}),
    ('bandwidth', {'bandwidth': 1 << 63}),
    ('report', {'report': 'yes'}),
    ('volume_id', {'volume_id': None}),
])
def test_a_merge_that_cannot_be_meant(field: str,
                                      changes: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        m.MergeRequest.from_wire(merge(**changes))
    assert caught.value.kwargs['field'] == field


@pytest.mark.parametrize('what', ['volume_id', 'snapshot_id', 'new_file'])
def test_the_same_thing_twice_in_one_snapshot(what: str) -> None:
    first = {'volume_id': 'v1', 'snapshot_id': 's1', 'new_file': 'f1'}
    second = {'volume_id': 'v2', 'snapshot_id': 's2', 'new_file': 'f2'}
    second[what] = first[what]
    with pytest.raises(errors.InvalidRequest, match=f'same {what} twice'):
        m.CreateRequest.from_wire({'disks': [first, second]})


@given(merge_requests())
def test_what_a_merge_does_to_the_chain(request: m.MergeRequest) -> None:
    assert request.survivor in request.after
    gone = set(request.before) - set(request.after)
    assert gone == set(request.merged) - {request.survivor}
    assert request.down == (request.survivor == request.merged[0])
    assert (request.includes_active
            == (request.merged[-1] == request.before[-1]))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1, '3',
                                   None, True, 1 << 63])
def test_times_that_are_none(value: object) -> None:
    with pytest.raises(errors.InvalidRequest):
        m.check_time(value, 'seconds')


def test_final_states() -> None:
    assert {s for s in m.State if s.final} == {
        m.State.DONE, m.State.FAILED, m.State.ABORTED}


@pytest.mark.parametrize('value', [0, 511, 513, -512, 1 << 63, '512', 512.0,
                                   True, None])
def test_sizes_that_no_disk_has(value: object) -> None:
    with pytest.raises(errors.InvalidRequest, match='size'):
        m.check_size(value, 'size')
    assert m.check_size(512, 'size') == 512
