# SPDX-License-Identifier: Apache-2.0
"""The messages of RPC version 1.1, as typed values.

``from_wire`` checks everything that can be checked without I/O and raises
:class:`~assisted_snapshots.rpcapi.errors.InvalidRequest` naming the field.
Unknown keys are ignored: a newer peer of the same major version may send
more (a key that changes a meaning needs a new version).  A missing optional
key takes its default, which is how an older peer is understood.

Layers are bare file names, base first; volumes and snapshots are ids.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
import enum
import re
from typing import Any
from typing import TypeVar

from assisted_snapshots.rpcapi import errors

Wire = dict[str, Any]
_E = TypeVar('_E', bound=enum.StrEnum)
_T = TypeVar('_T')

_ID = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z')
_FILE = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z')
MAX_LAYERS = 200  # libvirt's limit of a backing chain
MAX_DISKS = 64
SECTOR = 512


class Kind(enum.StrEnum):
    """What a job does."""

    CREATE = 'create'
    DELETE = 'delete'
    FLATTEN = 'flatten'


class Quiesce(enum.StrEnum):
    """Whether the guest's file systems are frozen for a snapshot."""

    OFF = 'off'
    TRY = 'try'
    REQUIRE = 'require'


class Consistency(enum.StrEnum):
    """What a snapshot's content is worth."""

    FILESYSTEM = 'filesystem-consistent'
    CRASH = 'crash-consistent'


class State(enum.StrEnum):
    """Where a job stands."""

    ACCEPTED = 'accepted'
    RUNNING = 'running'
    PIVOTING = 'pivoting'
    FLUSHING = 'flushing'
    DONE = 'done'
    FAILED = 'failed'
    ABORTED = 'aborted'

    @property
    def final(self) -> bool:
        """True where the job will not change any more."""
        return self in (State.DONE, State.FAILED, State.ABORTED)


class Condition(enum.StrEnum):
    """How a running job fares; never a reason to give it up by itself."""

    OK = 'ok'
    STALLED = 'stalled'
    NOT_CONVERGING = 'not-converging'
    WAITING = 'waiting'


def _check(ok: object, name: str, reason: str) -> None:
    if not ok:
        raise errors.InvalidRequest(field=name, reason=reason)


def check_id(value: object, name: str) -> str:
    """Return an id (of a volume, snapshot, job) or raise InvalidRequest."""
    _check(isinstance(value, str) and _ID.match(value), name,
           f'{value!r} is not an id')
    return str(value)


def check_file(value: object, name: str) -> str:
    """Return a bare file name or raise InvalidRequest."""
    _check(isinstance(value, str) and _FILE.match(value)
           and '..' not in value, name,
           f'{value!r} is not a bare file name')
    return str(value)


def check_number(value: object, name: str) -> int:
    """Return a whole number from 0 to 2^63-1 or raise InvalidRequest."""
    _check(isinstance(value, int) and not isinstance(value, bool)
           and 0 <= value < 1 << 63, name,
           f'{value!r} is not a whole number')
    return int(value)  # type: ignore[call-overload,no-any-return]


def check_size(value: object, name: str) -> int:
    """Return the size of a disk in bytes or raise InvalidRequest."""
    size = check_number(value, name)
    _check(size and not size % SECTOR, name,
           f'{size} is no multiple of {SECTOR}')
    return size


def _choice(kind: type[_E], value: object, name: str) -> _E:
    try:
        return kind(str(value))
    except ValueError:
        known = ', '.join(kind)
        raise errors.InvalidRequest(
            field=name, reason=f'{value!r} is none of {known}') from None


def check_flag(value: object, name: str) -> bool:
    """Return a boolean or raise InvalidRequest."""
    _check(isinstance(value, bool), name, f'{value!r} is not a boolean')
    return bool(value)


def _text(value: object, name: str) -> str:
    _check(isinstance(value, str), name, f'{value!r} is not a text')
    return str(value)


def check_time(value: object, name: str) -> float:
    """Return seconds from 0 on, fractions allowed, or InvalidRequest."""
    _check(isinstance(value, int | float) and not isinstance(value, bool)
           and 0 <= value < 1 << 63, name, f'{value!r} is not a time')
    return float(value)  # type: ignore[arg-type]


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    _check(isinstance(value, Mapping), name, 'is not an object')
    return value  # type: ignore[return-value]


def _list(value: object, name: str, item: Callable[[object, str], _T],
          least: int, most: int) -> tuple[_T, ...]:
    entries = value if isinstance(value, list | tuple) else ()
    _check(entries is value and least <= len(entries) <= most, name,
           f'must be a list of {least} to {most} entries')
    return tuple(item(v, f'{name}[{i}]') for i, v in enumerate(entries))


def _chains(value: object) -> Mapping[str, tuple[str, ...]]:
    found = _mapping(value, 'chains')
    _check(len(found) <= MAX_DISKS, 'chains', 'too many volumes')
    return {check_id(volume, 'chains'):
            _list(names, 'chains', check_file, 1, MAX_LAYERS)
            for volume, names in found.items()}


class _Message:
    """What every message can do."""

    def to_wire(self) -> Wire:
        """Return the message as plain JSON types."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True, slots=True)
class SnapshotDisk(_Message):
    """One disk of a snapshot request.

    :ivar volume_id: serial of the disk in the guest.
    :ivar snapshot_id: the snapshot that is being taken.
    :ivar new_file: prepared overlay in the folder of the active layer.
    """

    volume_id: str
    snapshot_id: str
    new_file: str

    @classmethod
    def from_wire(cls, wire: object, name: str = 'disk') -> SnapshotDisk:
        """Build from a received object."""
        w = _mapping(wire, name)
        return cls(check_id(w.get('volume_id'), f'{name}.volume_id'),
                   check_id(w.get('snapshot_id'), f'{name}.snapshot_id'),
                   check_file(w.get('new_file'), f'{name}.new_file'))


@dataclass(frozen=True, slots=True)
class CreateRequest(_Message):
    """Move one guest onto prepared overlays, all disks in one transaction.

    :ivar disks: at least one; all of the same guest.
    :ivar quiesce: freeze the guest's file systems first.
    :ivar report: send reports to the callback endpoint.
    :ivar origin: who asks; comes back with every report.
    """

    disks: tuple[SnapshotDisk, ...]
    quiesce: Quiesce = Quiesce.TRY
    report: bool = False
    origin: str = ''

    @classmethod
    def from_wire(cls, wire: object) -> CreateRequest:
        """Build from a received object."""
        w = _mapping(wire, 'request')
        disks = _list(w.get('disks'), 'disks', SnapshotDisk.from_wire, 1,
                      MAX_DISKS)
        for what in ('volume_id', 'snapshot_id', 'new_file'):
            _check(len({getattr(d, what) for d in disks}) == len(disks),
                   'disks', f'the same {what} twice')
        return cls(disks, _choice(Quiesce, w.get('quiesce', Quiesce.TRY),
                                  'quiesce'),
                   check_flag(w.get('report', False), 'report'),
                   _text(w.get('origin', ''), 'origin'))


@dataclass(frozen=True, slots=True)
class MergeRequest(_Message):
    """Merge a run of layers of one disk, exactly as planned.

    :ivar kind: DELETE (of one snapshot) or FLATTEN.
    :ivar volume_id: serial of the disk in the guest.
    :ivar subject: snapshot id; for FLATTEN the volume id.
    :ivar before: the whole chain as planned on, base first.
    :ivar merged: the run that becomes one layer, lowest first.
    :ivar survivor: the first or the last of ``merged``.
    :ivar bandwidth: bytes per second, 0 for the agent's default.
    :ivar report: send reports to the callback endpoint.
    :ivar origin: who asks; comes back with every report.
    """

    kind: Kind
    volume_id: str
    subject: str
    before: tuple[str, ...]
    merged: tuple[str, ...]
    survivor: str
    bandwidth: int = 0
    report: bool = False
    origin: str = ''

    @property
    def after(self) -> tuple[str, ...]:
        """The chain afterwards, base first."""
        return tuple(n for n in self.before
                     if n == self.survivor or n not in self.merged)

    @property
    def down(self) -> bool:
        """True for a commit, False for a pull."""
        return self.survivor == self.merged[0]

    @property
    def includes_active(self) -> bool:
        """True where the run ends with the active layer."""
        return self.merged[-1] == self.before[-1]

    @classmethod
    def from_wire(cls, wire: object) -> MergeRequest:
        """Build from a received object."""
        w = _mapping(wire, 'request')
        kind = _choice(Kind, w.get('kind'), 'kind')
        _check(kind is not Kind.CREATE, 'kind', 'a merge deletes or flattens')
        before = _list(w.get('before'), 'before', check_file, 2, MAX_LAYERS)
        merged = _list(w.get('merged'), 'merged', check_file, 2, MAX_LAYERS)
        _check(len(set(before)) == len(before), 'before', 'a layer twice')
        at = before.index(merged[0]) if merged[0] in before else 0
        _check(before[at:at + len(merged)] == merged, 'merged',
               'is not a contiguous run of "before"')
        survivor = check_file(w.get('survivor'), 'survivor')
        _check(survivor in (merged[0], merged[-1]), 'survivor',
               'is neither the first nor the last of "merged"')
        _check(survivor == merged[0] or merged[-1] == before[-1], 'survivor',
               'libvirt pulls only into the active layer')
        return cls(kind, check_id(w.get('volume_id'), 'volume_id'),
                   check_id(w.get('subject'), 'subject'), before, merged,
                   survivor, check_number(w.get('bandwidth', 0), 'bandwidth'),
                   check_flag(w.get('report', False), 'report'),
                   _text(w.get('origin', ''), 'origin'))


@dataclass(frozen=True, slots=True)
class Job(_Message):
    """A job as its agent sees it.

    :ivar id: the agent's id of the job.
    :ivar volumes: volume ids, as in the request.
    :ivar subjects: snapshot ids (for FLATTEN the volume id).
    :ivar domain: libvirt name of the guest.
    :ivar revision: grows with every change; for waiting.
    :ivar done_bytes: QEMU's progress; not a measure of time.
    :ivar total_bytes: QEMU's estimate; it grows while a guest writes.
    :ivar bandwidth: limit in bytes per second, 0 for none.
    :ivar method: ``snapshot`` or a block operation's name.
    :ivar chains: volume id -> live layers when last observed, base first.
    :ivar consistency: of a snapshot that was taken.
    :ivar note: one sentence: what was done last, or why nothing happens.
    :ivar error_code: of a failed job, see :mod:`.errors`.
    :ivar error: sentence for a failed job.
    :ivar created: Unix time in seconds.
    :ivar updated: Unix time in seconds of the last change.
    :ivar origin: who asked, as in the request.
    :ivar unreported: its last news are a report that nobody has taken yet;
        since 1.1.
    """

    id: str
    kind: Kind
    volumes: tuple[str, ...]
    subjects: tuple[str, ...]
    domain: str
    state: State
    condition: Condition = Condition.OK
    paused: bool = False
    revision: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    bandwidth: int = 0
    method: str = ''
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    consistency: str = ''
    note: str = ''
    error_code: str = ''
    error: str = ''
    created: float = 0.0
    updated: float = 0.0
    origin: str = ''
    unreported: bool = False

    @classmethod
    def from_wire(cls, wire: object) -> Job:
        """Build from a received object."""
        w = _mapping(wire, 'job')
        return cls(
            id=check_id(w.get('id'), 'id'),
            kind=_choice(Kind, w.get('kind'), 'kind'),
            volumes=_list(w.get('volumes'), 'volumes', check_id, 1,
                          MAX_DISKS),
            subjects=_list(w.get('subjects'), 'subjects', check_id, 1,
                          MAX_DISKS),
            domain=_text(w.get('domain', ''), 'domain'),
            state=_choice(State, w.get('state'), 'state'),
            condition=_choice(Condition, w.get('condition', Condition.OK),
                              'condition'),
            paused=check_flag(w.get('paused', False), 'paused'),
            revision=check_number(w.get('revision', 0), 'revision'),
            done_bytes=check_number(w.get('done_bytes', 0), 'done_bytes'),
            total_bytes=check_number(w.get('total_bytes', 0), 'total_bytes'),
            bandwidth=check_number(w.get('bandwidth', 0), 'bandwidth'),
            method=_text(w.get('method', ''), 'method'),
            chains=_chains(w.get('chains', {})),
            consistency=_text(w.get('consistency', ''), 'consistency'),
            note=_text(w.get('note', ''), 'note'),
            error_code=_text(w.get('error_code', ''), 'error_code'),
            error=_text(w.get('error', ''), 'error'),
            created=check_time(w.get('created', 0.0), 'created'),
            updated=check_time(w.get('updated', 0.0), 'updated'),
            origin=_text(w.get('origin', ''), 'origin'),
            unreported=check_flag(w.get('unreported', False),
                                  'unreported'))


@dataclass(frozen=True, slots=True)
class LiveLayer(_Message):
    """A layer of an attached volume, as libvirt shows it."""

    name: str
    format: str

    @classmethod
    def from_wire(cls, wire: object, name: str = 'layer') -> LiveLayer:
        """Build from a received object."""
        w = _mapping(wire, name)
        return cls(check_file(w.get('name'), f'{name}.name'),
                   _text(w.get('format', ''), 'format'))


@dataclass(frozen=True, slots=True)
class LiveChain(_Message):
    """The chain of an attached volume.

    :ivar running: False where the guest is defined but shut off.
    :ivar layers: base first.
    :ivar can_commit: False where the host's confinement denies QEMU to
        write to a layer that was a backing file when the guest started.
    :ivar remedy: what to do about it.
    :ivar job_id: unfinished job on the disk, empty if none.
    """

    volume_id: str
    domain: str
    device: str
    running: bool
    layers: tuple[LiveLayer, ...]
    can_commit: bool = True
    remedy: str = ''
    job_id: str = ''

    @property
    def names(self) -> tuple[str, ...]:
        """File names, base first."""
        return tuple(layer.name for layer in self.layers)

    @classmethod
    def from_wire(cls, wire: object) -> LiveChain:
        """Build from a received object."""
        w = _mapping(wire, 'chain')
        return cls(check_id(w.get('volume_id'), 'volume_id'),
                   _text(w.get('domain', ''), 'domain'),
                   _text(w.get('device', ''), 'device'),
                   check_flag(w.get('running', True), 'running'),
                   _list(w.get('layers'), 'layers', LiveLayer.from_wire, 1,
                         MAX_LAYERS),
                   check_flag(w.get('can_commit', True), 'can_commit'),
                   _text(w.get('remedy', ''), 'remedy'),
                   _text(w.get('job_id', ''), 'job_id'))


@dataclass(frozen=True, slots=True)
class Extended(_Message):
    """An attached volume that is as large as was asked for; since 1.1.

    :ivar device: target of the disk in the guest.
    :ivar size: in bytes, as the guest sees it.
    """

    volume_id: str
    domain: str
    device: str
    size: int

    @classmethod
    def from_wire(cls, wire: object) -> Extended:
        """Build from a received object."""
        w = _mapping(wire, 'extended')
        return cls(check_id(w.get('volume_id'), 'volume_id'),
                   _text(w.get('domain', ''), 'domain'),
                   _text(w.get('device', ''), 'device'),
                   check_number(w.get('size'), 'size'))


@dataclass(frozen=True, slots=True)
class AgentInfo(_Message):
    """What an agent says of itself.

    :ivar rpc_version: the highest RPC version it understands.
    :ivar libvirt: version, ``11.3.0``; empty while libvirtd is away.
    :ivar qemu: version; empty while libvirtd is away.
    :ivar problem: why it cannot work now; empty if it can.
    :ivar unfinished: number of unfinished jobs.
    """

    host: str
    version: str
    rpc_version: str
    libvirt: str = ''
    qemu: str = ''
    problem: str = ''
    unfinished: int = 0

    @classmethod
    def from_wire(cls, wire: object) -> AgentInfo:
        """Build from a received object."""
        w = _mapping(wire, 'info')
        return cls(**{n: _text(w.get(n, ''), n) for n in (
            'host', 'version', 'rpc_version', 'libvirt', 'qemu', 'problem')},
            unfinished=check_number(w.get('unfinished', 0), 'unfinished'))
