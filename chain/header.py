# SPDX-License-Identifier: Apache-2.0
"""The header of a qcow2 file, read without QEMU, and refused if unsafe.

A guest can write anything into a raw image, and a share can hold anything,
so a header is judged before any tool is pointed at the file.  This module
must never follow a name it finds, never open anything but a regular file,
never guess a format, and never write.

The layout is that of QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import errno
import os
from pathlib import Path
import stat
import struct

from oslo_utils.imageutils import format_inspector

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import names
from assisted_snapshots.chain.value import Format

_V2 = struct.Struct('>4sIQIIQIIQQIIQ')
_V3 = struct.Struct('>QQQII')
_MAGIC = b'QFI\xfb'
_OSLO_REGION = 512

_BACKING_FORMAT = 0xe2792aca
_ENCRYPTION = 0x0537be77
_DATA_FILE = 0x44415441

_CORRUPT_BIT = 1
_DATA_FILE_BIT = 2
_SUBCLUSTER_BIT = 4
_KNOWN_BITS = (1 << 5) - 1

# O_NONBLOCK: opening a FIFO would otherwise wait for a writer.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_LUKS = 2
_MAX_BACKING = 1023
_MAX_L1_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What a sound qcow2 header says.

    :ivar version: 2 or 3.
    :ivar cluster_size: in bytes.
    :ivar virtual_size: in bytes.
    :ivar backing: bare name of the layer below, None for a base.
    :ivar backing_format: the format pinned for the layer below.
    :ivar encrypted: the payload is LUKS.
    :ivar extended_l2: clusters are divided into subclusters.
    :ivar incompatible: the incompatible feature bits.
    :ivar l1_offset: where the L1 table is, in bytes.
    :ivar l1_entries: how many entries the L1 table has.
    :ivar allocated: bytes the file occupies (``st_blocks``).
    """

    version: int
    cluster_size: int
    virtual_size: int
    backing: str | None
    backing_format: Format | None
    encrypted: bool
    extended_l2: bool
    incompatible: int
    l1_offset: int
    l1_entries: int
    allocated: int

    @property
    def l2_entries(self) -> int:
        """Clusters that one L2 table describes."""
        return self.cluster_size // (16 if self.extended_l2 else 8)


@contextmanager
def open_layer(path: str | Path) -> Iterator[int]:
    """Open a regular file to read it; yields the descriptor.

    :raises BadLayer: a symbolic link, not a regular file, not readable.
    :raises MissingLayer: no such file.
    """
    try:
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError:
            # An NFS client may only remember that there was none; opening
            # the folder has it ask again.
            os.close(os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY
                             | os.O_CLOEXEC))
            fd = os.open(path, _READ)
    except FileNotFoundError:
        raise errors.MissingLayer(file=path) from None
    except OSError as exc:
        reason = ('is a symbolic link' if exc.errno == errno.ELOOP
                  else f'cannot be opened: {exc.strerror}')
        raise errors.BadLayer(file=path, reason=reason) from exc
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise errors.BadLayer(file=path, reason='is no regular file')
        yield fd
    finally:
        os.close(fd)


def read_at(fd: int, path: str | Path, offset: int, length: int) -> bytes:
    """Read exactly so many bytes; a shorter file is a bad layer."""
    parts = []
    while length:
        part = os.pread(fd, length, offset)
        if not part:
            raise errors.BadLayer(
                file=path, reason=f'is truncated: ends before byte '
                                  f'{offset + length}')
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b''.join(parts)


def read_header(path: str | Path) -> Header:
    """Read the header of a qcow2 layer.

    :raises BadLayer: it must not be used as a layer; says why.
    """
    with open_layer(path) as fd:
        return parse_header(fd, path)


def parse_header(fd: int, path: str | Path) -> Header:
    """Like :func:`read_header`, of a file that is open."""
    # Feature bits must be judged before anything that they give a meaning.
    start = os.pread(fd, _OSLO_REGION, 0)
    if start[:4] != _MAGIC:
        raise errors.BadLayer(
            file=path, reason='is not qcow2: the header has no magic number'
                              if start else 'is empty')
    start = read_at(fd, path, 0, _OSLO_REGION)
    (_, version, backing_offset, backing_size, cluster_bits, virtual_size,
     crypt, l1_entries, l1_offset, _, _, snapshots, _) = _V2.unpack_from(start)
    incompatible, length = _features(start, path, version)
    subclusters = bool(incompatible >> _SUBCLUSTER_BIT & 1)
    _check_fields(path, cluster_bits, subclusters, snapshots, crypt)
    cluster_size = 1 << cluster_bits
    block = read_at(fd, path, 0, max(cluster_size, _OSLO_REGION))
    end = backing_offset or cluster_size
    _check(path, length <= end <= cluster_size,
           f'backing name at byte {backing_offset} is outside of the header')
    extensions = dict(_extensions(block[:end], path, length))
    _check(path, _DATA_FILE not in extensions, 'has an external data file')
    _check(path, (crypt == _LUKS) == (_ENCRYPTION in extensions),
           'encryption method and encryption header disagree')
    backing = backing_format = None
    if backing_offset:
        name = block[backing_offset:cluster_size][:backing_size]
        backing = _backing(name, backing_size, path)
        backing_format = _format(extensions.get(_BACKING_FORMAT), backing,
                                 path)
    _second_opinion(start, path)
    header = Header(version, cluster_size, virtual_size, backing,
                    backing_format, crypt == _LUKS, subclusters,
                    incompatible, l1_offset, l1_entries,
                    os.fstat(fd).st_blocks * 512)
    _check_l1(fd, path, header)
    return header


def _check(path: str | Path, ok: bool, reason: str) -> None:
    if not ok:
        raise errors.BadLayer(file=path, reason=reason)


def _features(start: bytes, path: str | Path,
              version: int) -> tuple[int, int]:
    """Return the incompatible bits and the length of the header."""
    _check(path, version in (2, 3), f'qcow2 version {version} is unknown')
    if version == 2:
        return 0, _V2.size
    bits, _, _, _, length = _V3.unpack_from(start, _V2.size)
    _check(path, not bits >> _DATA_FILE_BIT & 1, 'has an external data file')
    _check(path, not bits >> _CORRUPT_BIT & 1,
           'is marked corrupt; see "qemu-img check"')
    _check(path, not bits & ~_KNOWN_BITS,
           f'has unknown incompatible features {bits & ~_KNOWN_BITS:#x}')
    _check(path, length >= _V2.size + _V3.size and length % 8 == 0,
           f'header length {length} is wrong')
    return bits, length


def _check_fields(path: str | Path, cluster_bits: int, subclusters: bool,
                  snapshots: int, crypt: int) -> None:
    """Check the numbers that need nothing else to be judged."""
    _check(path, 9 <= cluster_bits <= 21,
           f'cluster_bits {cluster_bits} is not from 9 to 21')
    _check(path, not subclusters or cluster_bits >= 14,
           'clusters are too small for subclusters')
    _check(path, not snapshots, f'has {snapshots} internal snapshots')
    _check(path, crypt in (0, _LUKS),
           f'encryption method {crypt} is not LUKS')


def _extensions(block: bytes, path: str | Path,
                at: int) -> Iterator[tuple[int, bytes]]:
    """Yield (type, content) of every header extension."""
    while at + 8 <= len(block):
        kind, length = struct.unpack_from('>II', block, at)
        if kind == 0:
            return
        at += 8
        _check(path, at + length <= len(block),
               f'header extension {kind:#x} is longer than the header')
        yield kind, block[at:at + length]
        at += (length + 7) & ~7


def _backing(name: bytes, size: int, path: str | Path) -> str:
    """Return the backing name, which must be bare."""
    text = name.decode('ascii', 'backslashreplace')
    if len(name) != size or size > _MAX_BACKING:
        raise errors.BadBacking(file=path, backing=text[:_MAX_BACKING],
                                reason='it is longer than the header')
    try:
        return names.check_name('backing file', text)
    except errors.BadName as exc:
        raise errors.BadBacking(file=path, backing=text,
                                reason=exc.fields['reason']) from None


def _format(name: bytes | None, backing: str, path: str | Path) -> Format:
    """Return the format the header pins for the layer below."""
    if name is None:
        raise errors.BadBacking(file=path, backing=backing,
                                reason='no format is given, so QEMU would '
                                       'probe for one')
    try:
        return Format(name.decode('ascii', 'backslashreplace'))
    except ValueError:
        raise errors.BadBacking(
            file=path, backing=backing,
            reason=f'format {name!r} is neither raw nor qcow2') from None


def _second_opinion(start: bytes, path: str | Path) -> None:
    """Have oslo.utils, which OpenStack trusts, judge the same header."""
    judged = bytearray(start)
    # It refuses every backing file, and takes subclusters for unknown;
    # both have been judged above.
    judged[8:16] = bytes(8)
    if judged[7] == 3:
        judged[79] &= ~(1 << _SUBCLUSTER_BIT)
    else:
        # Version 2 has no feature bits: there, this is the first extension.
        judged[72:80] = bytes(8)
    inspector = format_inspector.QcowInspector()
    inspector.eat_chunk(bytes(judged))
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as exc:
        found = '; '.join(map(str, exc.failures.values()))
        raise errors.BadLayer(file=path, reason=found) from exc


def _check_l1(fd: int, path: str | Path, header: Header) -> None:
    """Check that the L1 table is in the file and describes all of it."""
    size = header.l1_entries * 8
    needed = -(-header.virtual_size
               // (header.l2_entries * header.cluster_size))
    _check(path, needed <= header.l1_entries and size <= _MAX_L1_BYTES,
           f'L1 table of {header.l1_entries} entries does not fit a virtual '
           f'size of {header.virtual_size} bytes')
    _check(path, header.l1_offset % header.cluster_size == 0,
           'L1 table is not aligned')
    _check(path, header.l1_offset + size <= os.fstat(fd).st_size,
           f'is truncated: the L1 table at byte {header.l1_offset} is '
           f'outside of the file')
