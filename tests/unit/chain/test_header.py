# SPDX-License-Identifier: Apache-2.0
"""Headers that the real QEMU makes, and what hostile hands make of them."""

from __future__ import annotations

import os
from pathlib import Path
import struct
from typing import TYPE_CHECKING

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.value import Format

if TYPE_CHECKING:
    from tests.unit.chain.conftest import Share

KIB = 1 << 10
MIB = 1 << 20

BACKING_OFFSET = 8
CLUSTER_BITS = 20
VIRTUAL_SIZE = 24
CRYPT_METHOD = 32
L1_SIZE = 36
L1_OFFSET = 40
SNAPSHOTS = 60
INCOMPATIBLE = 72
HEADER_LENGTH = 100


def u32(value: int) -> bytes:
    return struct.pack('>I', value)


def u64(value: int) -> bytes:
    return struct.pack('>Q', value)


def test_header_of_a_base(share: Share) -> None:
    path = share.qcow2(size=5 * MIB + 512)
    header = qcow2.read_header(path)
    assert (header.version, header.cluster_size) == (3, 64 * KIB)
    assert header.virtual_size == 5 * MIB + 512
    assert header.backing is header.backing_format is None
    assert not header.encrypted
    assert not header.extended_l2
    assert header.allocated == path.stat().st_blocks * 512


@pytest.mark.parametrize('fmt', list(Format))
@pytest.mark.parametrize('compat', ['0.10', '1.1'])
def test_header_of_an_overlay(share: Share, fmt: Format,
                              compat: str) -> None:
    path = share.qcow2('volume-1.s1', backing='volume-1', fmt=fmt,
                       compat=compat)
    header = qcow2.read_header(path)
    assert header.version == (2 if compat == '0.10' else 3)
    assert header.backing == 'volume-1'
    assert header.backing_format is fmt


@pytest.mark.slow
def test_header_of_an_encrypted_overlay(share: Share) -> None:
    path = share.qcow2('volume-1.s1', backing='volume-1', luks=True)
    header = qcow2.read_header(path)
    assert header.encrypted
    assert header.backing == 'volume-1'


@pytest.mark.parametrize(('options', 'bits'), [
    ({'extended_l2': 'on'}, 1 << 4),
    ({'compression_type': 'zstd'}, 1 << 3),
    ({'lazy_refcounts': 'on'}, 0),
    ({'cluster_size': 512}, 0),
    ({'cluster_size': 2 * MIB}, 0),
    ({'refcount_bits': 1}, 0),
    ({'preallocation': 'metadata'}, 0),
    ({'preallocation': 'full'}, 0),
])
def test_options_that_are_fine(share: Share, options: dict[str, object],
                               bits: int) -> None:
    header = qcow2.read_header(share.qcow2(**options))  # type: ignore[arg-type]
    assert header.incompatible == bits
    assert header.extended_l2 == bool(bits & 1 << 4)


def test_dirty_is_fine_and_bitmaps_are_fine(share: Share) -> None:
    path = share.qcow2()
    share.run('qemu-img', 'bitmap', '--add', 'volume-1', 'b0')
    share.patch('volume-1', INCOMPATIBLE, u64(1))
    assert qcow2.read_header(path).incompatible == 1


@pytest.mark.parametrize(('offset', 'data', 'reason'), [
    (0, b'QFI\xfa', 'magic'),
    (0, b'\0' * 4, 'magic'),
    (4, u32(1), 'version 1'),
    (4, u32(4), 'version 4'),
    (CLUSTER_BITS, u32(8), 'cluster_bits 8'),
    (CLUSTER_BITS, u32(22), 'cluster_bits 22'),
    (CLUSTER_BITS, u32(1 << 31), 'cluster_bits'),
    (CRYPT_METHOD, u32(1), 'encryption method 1'),
    (CRYPT_METHOD, u32(3), 'encryption method 3'),
    (CRYPT_METHOD, u32(2), 'disagree'),
    (SNAPSHOTS, u32(2), '2 internal snapshots'),
    (INCOMPATIBLE, u64(1 << 1), 'marked corrupt'),
    (INCOMPATIBLE, u64(1 << 2), 'external data file'),
    (INCOMPATIBLE, u64(1 << 5), 'unknown incompatible features 0x20'),
    (INCOMPATIBLE, u64(1 << 63), 'unknown incompatible features'),
    (HEADER_LENGTH, u32(72), 'header length'),
    (HEADER_LENGTH, u32(105), 'header length'),
    (HEADER_LENGTH, u32(1 << 30), 'outside of the header'),
    (112, u32(0x44415441), 'external data file'),
    (116, u32(1 << 20), 'longer than the header'),
    (VIRTUAL_SIZE, u64(1 << 40), 'L1 table'),
    (VIRTUAL_SIZE, u64((1 << 64) - 1), 'L1 table'),
    (L1_SIZE, u32(0), 'L1 table'),
    (L1_SIZE, u32((1 << 32) - 1), 'L1 table'),
    (L1_SIZE, u32(1 << 20), 'truncated'),
    (L1_OFFSET, u64(512), 'aligned'),
    (L1_OFFSET, u64(1 << 50), 'truncated'),
    (BACKING_OFFSET, u64(1 << 20), 'outside of the header'),
    (BACKING_OFFSET, u64(8), 'outside of the header'),
])
def test_headers_that_are_refused(share: Share, offset: int, data: bytes,
                                  reason: str) -> None:
    path = share.qcow2()
    share.patch('volume-1', offset, data)
    before = share.digest()
    with pytest.raises(errors.BadLayer) as caught:
        qcow2.read_header(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert share.digest() == before


def test_data_file_is_refused(share: Share) -> None:
    path = share.qcow2(data_file='elsewhere')
    with pytest.raises(errors.BadLayer, match='external data file'):
        qcow2.read_header(path)
    assert share.number('volume-1', INCOMPATIBLE, 'Q') == 1 << 2
    share.patch('volume-1', INCOMPATIBLE, u64(0))
    with pytest.raises(errors.BadLayer, match='external data file'):
        qcow2.read_header(path)


def test_internal_snapshot_is_refused(share: Share) -> None:
    path = share.qcow2()
    share.run('qemu-img', 'snapshot', '-c', 'inside', 'volume-1')
    with pytest.raises(errors.BadLayer, match='1 internal snapshots'):
        qcow2.read_header(path)
    with pytest.raises(errors.BadLayer, match='1 internal snapshots'):
        list(qcow2.mapped(path))


def test_subclusters_of_less_than_a_sector_are_refused(share: Share) -> None:
    path = share.qcow2(cluster_size=8 * KIB)
    share.patch('volume-1', INCOMPATIBLE, u64(1 << 4))
    with pytest.raises(errors.BadLayer, match='too small for subclusters'):
        qcow2.read_header(path)


def test_the_second_opinion_of_oslo_counts(share: Share,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    path = share.qcow2()
    share.patch('volume-1', INCOMPATIBLE, u64(1 << 7))
    monkeypatch.setattr('assisted_snapshots.chain.header._KNOWN_BITS', 0xff)
    with pytest.raises(errors.BadLayer, match='Unknown QCOW2 features'):
        qcow2.read_header(path)


@pytest.mark.parametrize(('backing', 'reason'), [
    ('/etc/passwd', 'slash'),
    ('../volume-2', 'slash'),
    ('sub/volume-2', 'slash'),
    ('..', '".."'),
    ('.', 'begins'),
    ('nbd://host/export', 'slash'),
    ('nbd:unix:socket', 'protocol'),
    ('json:{"driver":"null-co"}', 'protocol'),
    ('file:volume-1', 'protocol'),
    ('volume 1', 'characters'),
    ('volume\n1', 'characters'),
    ('volume-1.info', 'reserved'),
    ('v' * 1000, 'longer'),
])
def test_backing_names_that_are_refused(share: Share, backing: str,
                                        reason: str) -> None:
    path = share.qcow2('volume-1.s1')
    share.run('qemu-img', 'rebase', '-u', '-b', backing, '-F', 'raw',
              'volume-1.s1')
    with pytest.raises(errors.BadBacking) as caught:
        qcow2.read_header(path)
    assert str(caught.value).startswith(f'{path}: ')
    assert reason in str(caught.value)
    assert repr(backing) in str(caught.value)


def test_backing_name_that_is_not_ascii_is_refused(share: Share) -> None:
    path = share.qcow2('volume-1.s1', backing='volume-1')
    share.patch('volume-1.s1',
                share.number('volume-1.s1', BACKING_OFFSET, 'Q'), b'\xff\0')
    with pytest.raises(errors.BadBacking, match='characters'):
        qcow2.read_header(path)


@pytest.mark.parametrize('size', [0, 1024, 1 << 31])
def test_backing_name_of_a_wrong_length_is_refused(share: Share,
                                                   size: int) -> None:
    path = share.qcow2('volume-1.s1', backing='volume-1')
    share.patch('volume-1.s1', 16, u32(size))
    with pytest.raises(errors.BadBacking):
        qcow2.read_header(path)


def test_backing_without_a_format_is_refused(share: Share) -> None:
    path = share.qcow2('volume-1.s1', backing='volume-1', fmt='raw')
    assert share.number('volume-1.s1', 112, 'I') == 0xe2792aca
    share.patch('volume-1.s1', 112, u32(0x12345678))
    with pytest.raises(errors.BadBacking, match='no format is given'):
        qcow2.read_header(path)


@pytest.mark.parametrize('fmt', ['vmdk', 'qcow', 'luks'])
def test_backing_of_another_format_is_refused(share: Share,
                                              fmt: str) -> None:
    path = share.qcow2('volume-1.s1', backing='volume-1', fmt=fmt)
    with pytest.raises(errors.BadBacking, match=f'{fmt}.*neither raw nor'):
        qcow2.read_header(path)


@pytest.mark.parametrize(('length', 'reason'), [
    (0, 'empty'), (3, 'magic'), (4, 'truncated'), (71, 'truncated'),
    (104, 'truncated'), (512, 'truncated'), (64 * KIB, 'truncated'),
    (128 * KIB, 'truncated'), (192 * KIB, 'truncated')])
def test_truncated_files_are_refused(share: Share, length: int,
                                     reason: str) -> None:
    path = share.qcow2()
    os.truncate(path, length)
    with pytest.raises(errors.BadLayer, match=reason):
        qcow2.read_header(path)


def test_only_regular_files_are_opened(share: Share) -> None:
    share.qcow2()
    link, fifo = share.folder / 'volume-1.link', share.folder / 'volume-1.f'
    link.symlink_to('volume-1')
    os.mkfifo(fifo)
    for path, reason in ((link, 'symbolic link'), (fifo, 'regular'),
                         (share.folder, 'regular')):
        with pytest.raises(errors.BadLayer, match=reason) as caught:
            qcow2.read_header(path)
        assert str(path) in str(caught.value)
    with pytest.raises(errors.MissingLayer, match='no such file'):
        qcow2.read_header(share.folder / 'volume-1.gone')
    with pytest.raises(errors.BadLayer, match='cannot be opened'):
        qcow2.read_header(link / 'x')


def test_paths_may_be_text(share: Share) -> None:
    path = share.qcow2()
    assert qcow2.read_header(str(path)) == qcow2.read_header(Path(path))
