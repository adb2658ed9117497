# SPDX-License-Identifier: Apache-2.0
"""Cluster tables, against what the real QEMU says of them."""

from __future__ import annotations

from collections.abc import Iterable
import os
import random
import struct
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2

if TYPE_CHECKING:
    from tests.unit.chain.conftest import Share

KIB = 1 << 10
MIB = 1 << 20
L1_OFFSET = 40

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)),
                  max_size=12)


def u64(value: int) -> bytes:
    return struct.pack('>Q', value)


def said_by_qemu(share: Share, name: str, *, data: bool,
                 luks: bool = False) -> list[qcow2.Range]:
    """What qemu-img map says that the file itself holds."""
    held: list[qcow2.Range] = []
    for part in share.map(name, luks=luks):
        if (part['depth'] == 0 and part['present']
                and (part['data'] or not data)):
            start, length = part['start'], part['length']
            if held and sum(held[-1]) == start:
                start, length = held[-1][0], held.pop()[1] + length
            held.append((start, length))
    return held


def assert_as_qemu(share: Share, name: str, luks: bool = False) -> None:
    path = share.folder / name
    for data, ours in ((False, qcow2.mapped), (True, qcow2.data_ranges)):
        assert list(ours(path)) == said_by_qemu(share, name, data=data,
                                                luks=luks)


@pytest.mark.parametrize('extended', ['off', 'on'])
def test_damage_is_refused_or_harmless(share: Share, extended: str) -> None:
    path = share.qcow2(cluster_size=16 * KIB, extended_l2=extended)
    share.io('volume-1', 'write 0 64k', 'write -z 128k 64k', 'write 3M 60k')
    sound = path.read_bytes()
    tables = [0, share.number('volume-1', L1_OFFSET, 'Q'),
              share.number('volume-1',
                           share.number('volume-1', L1_OFFSET, 'Q'), 'Q')
              & (1 << 56) - 1]
    edit = st.tuples(st.sampled_from(tables), st.integers(0, 160),
                     st.one_of(st.sampled_from([0, 1, 0x40, 0x80, 0xff]),
                               st.integers(0, 255)))

    @given(st.lists(edit, min_size=1, max_size=6))
    @settings(max_examples=300)
    def damage(edits: list[tuple[int, int, int]]) -> None:
        image = bytearray(sound)
        for table, offset, value in edits:
            image[table + offset] = value
        path.write_bytes(image)
        try:
            size = qcow2.read_header(path).virtual_size
            found = list(qcow2.mapped(path))
        except errors.BadLayer as exc:
            assert str(exc).startswith(f'{path}: ')
            return
        assert_sorted(found, size)

    damage()


# What a file holds


def assert_sorted(found: list[qcow2.Range], size: int) -> None:
    """Check that ranges are sorted, merged, and inside of the disk."""
    end = -1
    for start, length in found:
        assert start > end
        assert length > 0
        end = start + length
    assert end <= size


def scribble(share: Share, name: str, rng: random.Random, size: int,
             cluster: int, *, luks: bool = False,
             compressed: bool = True) -> None:
    """Do random things to an image, which is empty."""
    whole = range(size // cluster)
    commands = []
    if compressed:
        commands = [f'write -c {at * cluster} {cluster}' for at in
                    rng.sample(whole, rng.randrange(min(4, len(whole) + 1)))]
    for _ in range(rng.randrange(1, 25)):
        start = rng.randrange(size // 512) * 512
        length = min(rng.choice([512, 4096, cluster, 5 * cluster]),
                     size - start)
        kind = rng.choice(['write', 'write -P 0', 'write -z', 'write -zu',
                           'discard'])
        if kind == 'discard':
            start, length = rng.choice(whole) * cluster, cluster
        commands.append(f'{kind} {start} {length}')
    share.io(name, *commands, luks=luks)


@pytest.mark.slow
@pytest.mark.parametrize('options', [
    {}, {'compat': '0.10'}, {'cluster_size': 512}, {'cluster_size': 4096},
    {'cluster_size': 2 * MIB}, {'extended_l2': 'on'},
    {'extended_l2': 'on', 'cluster_size': 16 * KIB},
    {'compression_type': 'zstd'}, {'preallocation': 'metadata'},
    {'preallocation': 'falloc'}], ids=str)
@pytest.mark.parametrize('seed', range(3))
def test_random_images_map_as_qemu_says(
        share: Share, options: dict[str, object], seed: int) -> None:
    rng = random.Random(f'{seed} {options}')
    size = rng.choice([MIB, 4 * MIB, 3 * MIB + 512, 5 * MIB + 7 * 512])
    if options.get('cluster_size') == 512:
        size = MIB
    size = max(size, int(str(options.get('cluster_size', 0))))
    share.qcow2(size=size, **options)  # type: ignore[arg-type]
    scribble(share, 'volume-1', rng, size,
             qcow2.read_header(share.folder / 'volume-1').cluster_size,
             compressed='preallocation' not in options)
    assert_as_qemu(share, 'volume-1')


@pytest.mark.slow
@pytest.mark.parametrize('extended', ['off', 'on'])
@pytest.mark.parametrize('seed', range(3))
def test_random_overlays_map_as_qemu_says(share: Share, seed: int,
                                          extended: str) -> None:
    rng = random.Random(f'{seed} {extended}')
    below, fmt = 'volume-1', rng.choice(['raw', 'qcow2'])
    size = 2 * MIB + 512
    (share.raw if fmt == 'raw' else share.qcow2)(below, size)
    for i in range(3):
        size += rng.choice([0, MIB])
        share.qcow2(f'volume-1.s{i}', size, backing=below, fmt=fmt,
                    extended_l2=extended)
        below, fmt = f'volume-1.s{i}', 'qcow2'
        scribble(share, below, rng, size, 64 * KIB)
        assert_as_qemu(share, below)


@pytest.mark.slow
@pytest.mark.parametrize('extended', ['off', 'on'])
@pytest.mark.parametrize('seed', range(2))
def test_encrypted_images_need_no_secret(share: Share, seed: int,
                                         extended: str) -> None:
    path = share.qcow2(luks=True, extended_l2=extended)
    scribble(share, 'volume-1', random.Random(seed), 4 * MIB, 64 * KIB,
             luks=True, compressed=False)
    assert qcow2.read_header(path).encrypted
    assert_as_qemu(share, 'volume-1', luks=True)


def test_many_tables(share: Share) -> None:
    path = share.qcow2(size=1 << 40, cluster_size=4 * KIB)
    share.io('volume-1', 'write 0 4k', 'write 2097148k 12k',
             'write -z 500G 8M', 'write 1099511623680 4k')
    assert_as_qemu(share, 'volume-1')
    assert sum(length for _, length in qcow2.mapped(path)) == (
        8 * MIB + 4 * KIB + 12 * KIB + 4 * KIB)


def test_compressed_clusters_are_data(share: Share) -> None:
    path = share.qcow2()
    share.io('volume-1', 'write -c 1M 128k')
    assert list(qcow2.data_ranges(path)) == [(MIB, 128 * KIB)]


def test_zeroes_are_mapped_but_no_data(share: Share) -> None:
    path = share.qcow2()
    share.io('volume-1', 'write 0 64k', 'write -z 64k 64k',
             'write 128k 64k', 'write -z 128k 64k')
    assert list(qcow2.mapped(path)) == [(0, 192 * KIB)]
    assert list(qcow2.data_ranges(path)) == [(0, 64 * KIB)]


def test_an_empty_image_holds_nothing(share: Share) -> None:
    assert list(qcow2.mapped(share.qcow2())) == []
    assert list(qcow2.mapped(share.qcow2('volume-1.s1', 0))) == []


def l2_entry(share: Share, name: str = 'volume-1') -> tuple[int, int]:
    """Where the L1 table and the first L2 table are."""
    l1 = share.number(name, L1_OFFSET, 'Q')
    return l1, share.number(name, l1, 'Q') & (1 << 56) - 1


@pytest.mark.parametrize(('table', 'data', 'reason'), [
    (0, u64(1 << 63 | 0x12200), 'not aligned'),
    (0, u64(1 << 63 | 1 << 40), 'outside of the file'),
    (1, u64(1 << 63 | 0x12200), 'not aligned'),
    (1, u64(1 << 63 | 1 << 40), 'outside of the file'),
])
def test_damaged_tables_are_refused(share: Share, table: int, data: bytes,
                                    reason: str) -> None:
    path = share.qcow2()
    share.io('volume-1', 'write 0 64k')
    share.patch('volume-1', l2_entry(share)[table], data)
    with pytest.raises(errors.BadLayer, match=reason) as caught:
        list(qcow2.mapped(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(('entry', 'bitmap'), [
    (True, 1 | 1 << 32), (False, 1)])
def test_subclusters_that_contradict_themselves(
        share: Share, entry: bool, bitmap: int) -> None:
    path = share.qcow2(extended_l2='on')
    share.io('volume-1', 'write 0 2k')
    at = l2_entry(share)[1]
    if not entry:
        share.patch('volume-1', at, u64(0))
    share.patch('volume-1', at + 8, u64(bitmap))
    with pytest.raises(errors.BadLayer, match='contradict'):
        list(qcow2.mapped(path))


def test_zero_cluster_in_version_2_is_refused(share: Share) -> None:
    path = share.qcow2(compat='0.10')
    share.io('volume-1', 'write 0 64k')
    at = l2_entry(share)[1]
    share.patch('volume-1', at, u64(share.number('volume-1', at, 'Q') | 1))
    with pytest.raises(errors.BadLayer, match='zero cluster in version 2'):
        list(qcow2.mapped(path))


def test_a_file_that_ends_in_a_table_is_refused(share: Share) -> None:
    path = share.qcow2()
    share.io('volume-1', 'write 0 64k')
    os.truncate(path, l2_entry(share)[1] + 512)
    with pytest.raises(errors.BadLayer, match='truncated'):
        list(qcow2.mapped(path))


def test_a_file_that_grows_while_it_is_read(share: Share) -> None:
    path = share.qcow2(size=2048 * MIB)
    # Three tables; the third is not read when the first range comes out.
    share.io('volume-1', 'write 0 64k', 'write 1G 64k', 'write 1600M 64k')
    reading = qcow2.mapped(path)
    assert next(reading) == (0, 64 * KIB)
    share.io('volume-1', 'write 1700M 64k')
    assert list(reading)[-1] == (1700 * MIB, 64 * KIB)


def test_raw_data_ranges(share: Share) -> None:
    path = share.raw()
    os.truncate(path, 0)
    os.truncate(path, 4 * MIB)
    assert list(qcow2.raw_data_ranges(path)) == []
    share.io('volume-1', 'write 1M 64k', 'write 4032k 64k', fmt='raw')
    assert list(qcow2.raw_data_ranges(path)) == [
        (MIB, 64 * KIB), (4032 * KIB, 64 * KIB)]
    with pytest.raises(errors.MissingLayer):
        list(qcow2.raw_data_ranges(share.folder / 'volume-1.gone'))


# Comparing what two files hold


def spread(found: Iterable[qcow2.Range]) -> set[int]:
    return {i for start, length in found
            for i in range(start, start + length)}


def joined(units: set[int]) -> list[qcow2.Range]:
    found: list[qcow2.Range] = []
    for unit in sorted(units):
        if found and sum(found[-1]) == unit:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((unit, 1))
    return found


@given(ranges, ranges)
def test_gaps_are_what_is_not_covered(upper: list[qcow2.Range],
                                      lower: list[qcow2.Range]) -> None:
    above, below = spread(upper), spread(lower)
    missing = list(qcow2.gaps(joined(above), joined(below)))
    assert_sorted(missing, 1000)
    assert spread(missing) == below - above
    assert qcow2.covers(joined(above), joined(below)) == (below <= above)


@pytest.mark.parametrize(('down', 'method'), [
    (True, 'commit'), (False, 'rebase')])
def test_a_merge_is_proven_and_half_a_merge_is_not(
        share: Share, down: bool, method: str) -> None:
    share.snapshots(2)
    lower, upper = (share.folder / f'volume-1.s{i}' for i in (1, 2))
    share.io('volume-1', 'write -P 1 0 2M')
    share.io(lower.name, 'write -P 2 512k 1M', 'write -z 3M 64k')
    share.io(upper.name, 'write -P 3 1M 1M', 'write -P 3 3M 128k')
    survivor, removed = (lower, upper) if down else (upper, lower)
    held = list(qcow2.data_ranges(removed))
    assert not qcow2.covers(qcow2.mapped(survivor), held)
    if method == 'commit':
        share.run('qemu-img', 'commit', '-q', '-d', upper.name)
    else:
        share.run('qemu-img', 'rebase', '-q', '-b', 'volume-1', '-F',
                  'qcow2', upper.name)
    assert qcow2.covers(qcow2.mapped(survivor), held)
