# SPDX-License-Identifier: Apache-2.0
"""The metadata of a volume on its share: .info and journal.

Both files are replaced atomically: written aside, flushed, renamed, and the
folder flushed, so that after a crash there is the old text or the new one.
This module must never write one of them in place, and never change what
upstream Cinder reads in .info.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
import json
import os
from pathlib import Path
import stat
from types import MappingProxyType
from typing import Any

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.names import check_snapshot_id
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.reader import parse_info
from assisted_snapshots.chain.value import Format

VERSION = 1
_LIMIT = (1 << 20) + 1
_MODE = 0o660


@dataclass(frozen=True, slots=True)
class Pinned:
    """What is known of a layer for good.

    :ivar format: the format it is always opened with.
    :ivar encrypted: True where the qcow2 payload is LUKS.
    """

    format: Format
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation in flight, bound to the layers it was planned for.

    :ivar kind: ``create``, ``delete``, ``clone``, ``revert``, ``extend``,
        ``flatten`` or ``adopt``.
    :ivar subject: snapshot id; the volume's name where there is none.
    :ivar step: what may have been begun.
    :ivar attached: a guest does the work; only its host can say how far it
        has come.
    :ivar details: what the kind needs, as plain JSON types.
    """

    kind: str
    subject: str
    step: str
    attached: bool = False
    details: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Journal:
    """What this project remembers of a volume.

    :ivar layers: file name -> what is pinned for it.
    :ivar snapshots: snapshot id -> file, as last written to .info; with it
        a lost .info can be rebuilt even where a merge has left a layer
        under the name of another snapshot.
    :ivar operation: the one in flight, if any.
    """

    layers: Mapping[str, Pinned] = field(
        default_factory=lambda: MappingProxyType({}))
    snapshots: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}))
    operation: Operation | None = None


class Store:
    """Reads and replaces the metadata files of one volume.

    Callers hold the volume's lock for everything that writes.
    """

    def __init__(self, files: VolumeFiles) -> None:
        self._files = files

    def read_info(self) -> dict[str, str] | None:
        """Return upstream's .info, None if there is none.

        :raises BadInfo: it is truncated, or not what Cinder writes.
        """
        text = _read(self._files.info)
        return None if text is None else parse_info(self._files, text)

    def write_info(self, active: str, snapshots: Mapping[str, str]) -> None:
        """Replace .info; byte for byte what upstream would write."""
        text = json.dumps({'active': active, **snapshots}, indent=1,
                          sort_keys=True)
        self._replace(self._files.info, text)

    def read_journal(self) -> Journal | None:
        """Return the journal, None if there is none.

        :raises BadJournal: it is not one, or of an unknown version.
        """
        text = _read(self._files.journal)
        if text is None:
            return None
        found = _parse(text, self._files.journal)
        if found.get('version') != VERSION:
            raise errors.BadJournal(
                file=self._files.journal,
                reason=f'version {found.get("version")!r} is unknown, this '
                       f'release reads {VERSION}')
        try:
            return self._journal(found)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise errors.BadJournal(file=self._files.journal,
                                    reason=f'is malformed: {exc!r}') from exc

    def doing(self) -> Operation | None:
        """Return the operation in flight, None if there is none."""
        journal = self.read_journal()
        return None if journal is None else journal.operation

    def write_journal(self, journal: Journal) -> None:
        """Replace the journal."""
        operation = journal.operation
        self._replace(self._files.journal, json.dumps({
            'version': VERSION,
            'volume': self._files.name,
            'layers': {name: {'format': str(pinned.format),
                              'encrypted': pinned.encrypted}
                       for name, pinned in journal.layers.items()},
            'snapshots': dict(journal.snapshots),
            'operation': None if operation is None else {
                'kind': operation.kind, 'subject': operation.subject,
                'step': operation.step, 'attached': operation.attached,
                'details': dict(operation.details)},
        }, indent=1, sort_keys=True))

    def _journal(self, found: dict[str, Any]) -> Journal:
        if found['volume'] != self._files.name:
            raise ValueError(f'it is of volume {found["volume"]!r}')
        for name in (*found['layers'], *found.get('snapshots', {}).values()):
            self._files.path(name)
        doing = found['operation']
        return Journal(
            MappingProxyType({
                name: Pinned(Format(pinned['format']),
                             bool(pinned['encrypted']))
                for name, pinned in found['layers'].items()}),
            MappingProxyType({check_snapshot_id(snapshot): str(name)
                              for snapshot, name
                              in found.get('snapshots', {}).items()}),
            None if doing is None else Operation(
                str(doing['kind']), str(doing['subject']), str(doing['step']),
                bool(doing['attached']), MappingProxyType(doing['details'])))

    def _replace(self, path: Path, text: str) -> None:
        """Put a text in place of a file, or leave the old one."""
        aside = path.with_name(path.name + '.tmp')
        aside.unlink(missing_ok=True)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL
                     | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, 'wb') as file:
                self._dress(fd, path)
                file.write(text.encode())
                file.flush()
                os.fsync(fd)
        except OSError:
            # A share without room must not keep what did not fit.
            aside.unlink(missing_ok=True)
            raise
        aside.rename(path)
        sync_folder(path.parent)

    def _dress(self, fd: int, path: Path) -> None:
        """Give a new file the mode and owner of the one it replaces.

        If there is none, those of a layer of the volume.
        """
        for model in (path, self._files.base, *self._files.folder.glob(
                f'{self._files.name}.*')):
            try:
                found = model.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found.st_mode) and model.suffix != '.tmp':
                dress(fd, found)
                return
        os.fchmod(fd, _MODE)


def blank(path: Path, model: os.stat_result) -> None:
    """Make an empty file that is another one's equal before it holds data.

    The tools keep what is there; what they make, everybody may read.
    """
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                 | os.O_CLOEXEC, 0o600)
    try:
        dress(fd, model)
    finally:
        os.close(fd)


def dress(fd: int, model: os.stat_result) -> None:
    """Give an open file another one's owner and mode.

    Only root can give a file away.  Who cannot is the one owner of all of
    the share's files, or works under the modes that let both sides in.
    """
    os.fchmod(fd, stat.S_IMODE(model.st_mode))
    mine = os.fstat(fd)
    if (mine.st_uid, mine.st_gid) != (model.st_uid, model.st_gid):
        try:
            os.fchown(fd, model.st_uid, model.st_gid)
        except PermissionError:
            return
        os.fchmod(fd, stat.S_IMODE(model.st_mode))


def renew_folder(folder: Path) -> None:
    """Have the kernel ask for the names in a folder before it tells them.

    An NFS client remembers names, also those that were not there, for up to
    a minute.  What opens the folder has it asked whether it has changed.
    """
    os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with open_layer(path) as fd:
        os.fsync(fd)


def plan_details(plan: MergePlan) -> dict[str, Any]:
    """Return a plan as plain JSON types."""
    return {
        'before': list(plan.before), 'merged': list(plan.merged),
        'direction': str(plan.direction),
        'formats': {name: str(of) for name, of in plan.formats.items()},
        'snapshots_before': dict(plan.snapshots_before),
        'snapshots_after': dict(plan.snapshots_after),
        'copy_bytes': plan.copy_bytes, 'other_bytes': plan.other_bytes}


def plan_of(files: VolumeFiles, operation: Operation) -> MergePlan:
    """Return the plan an operation is bound to.

    :raises BadJournal: it is not a plan of this volume's files.
    """
    details = operation.details
    try:
        before, merged = tuple(details['before']), tuple(details['merged'])
        for name in before:
            files.path(name)
        at = before.index(merged[0])
        if len(merged) < 2 or before[at:at + len(merged)] != merged:
            raise ValueError('"merged" is no run of "before"')
        return MergePlan(
            volume=files.name, before=before, merged=merged,
            direction=Direction(details['direction']),
            formats=MappingProxyType({name: Format(details['formats'][name])
                                      for name in before}),
            snapshots_before=_snapshots(files, details['snapshots_before']),
            snapshots_after=_snapshots(files, details['snapshots_after']),
            copy_bytes=int(details['copy_bytes']),
            other_bytes=int(details['other_bytes']))
    except (AttributeError, KeyError, TypeError, ValueError,
            IndexError) as exc:
        raise errors.BadJournal(file=files.journal,
                                reason=f'holds no plan: {exc!r}') from exc


def _snapshots(files: VolumeFiles,
               found: Mapping[str, str]) -> Mapping[str, str]:
    for snapshot, name in found.items():
        check_snapshot_id(snapshot)
        files.path(name)
    return MappingProxyType(dict(found))


def _read(path: Path) -> bytes | None:
    """Return a small regular file's content, None if there is none."""
    try:
        with open_layer(path) as fd:
            return os.pread(fd, _LIMIT, 0)
    except errors.MissingLayer:
        return None


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise errors.BadJournal(
            file=path, reason=f'is truncated or no JSON: {exc}') from exc
    if not isinstance(found, dict):
        raise errors.BadJournal(file=path, reason='is no JSON object')
    return found
