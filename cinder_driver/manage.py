# SPDX-License-Identifier: Apache-2.0
"""Files that are already on a share become volumes, and stop being ones.

A file is renamed, never copied or changed.  A guest may have written a
qcow2 header into a raw file, so where the header could be either, whoever
manages it must say the format.  This module must never take a file that
belongs to a volume, that somebody has open, or that refers to another file.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
import os
from pathlib import Path
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from cinder import objects
from cinder.volume import volume_utils
from oslo_utils import units
from oslo_utils.imageutils import format_inspector

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.lock import denied_to_qemu
from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import RESERVED
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Pinned
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver import metadata
from assisted_snapshots.cinder_driver import shares
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import native

Reference = Mapping[str, str]

_NAME = 'source-name'
_FORMAT = 'format'

# What a raw disk may look like to who inspects it.
_DISKS = ('raw', 'gpt', 'mbr', 'iso')


@dataclass(frozen=True, slots=True)
class Found:
    """A file that can become a volume.

    :ivar size: that a guest would see, in bytes.
    """

    share: str
    path: Path
    form: Format
    size: int


def manage(backend: Backend, volume: objects.Volume,
           reference: Reference) -> dict[str, str]:
    """Make a volume of a file.

    Killed anywhere, the file has one of the two names and its content; the
    row has no share yet, so deleting the failed volume removes nothing.
    """
    with backend.locked(volume.id), failures.translated():
        found = _find(backend, reference)
        files = VolumeFiles(backend.share_folder(found.share), volume.name)
        native(_take, found.path, files, found.form, backend.mode())
        metadata.record(backend.context(), volume,
                        {metadata.FORMAT: str(found.form)})
        return {'provider_location': found.share}


def size_of(backend: Backend, reference: Reference) -> int:
    """Return the size in GiB that a file would have as a volume."""
    return -(-_find(backend, reference).size // units.Gi)


def unmanage(backend: Backend, volume: objects.Volume) -> None:
    """Leave one file to the operator, and nothing beside it.

    Killed anywhere, doing it again finishes it.
    """
    if not volume.provider_location:
        return
    with backend.locked(volume.id), failures.translated():
        fresh = backend.fresh(volume)
        operations = guests.settled(backend, fresh)
        state = native(operations.state)
        if state.snapshots:
            raise failures.SnapshotsLeft(volume=volume.id,
                                         count=len(state.snapshots))
        native(_release, backend.files(fresh))


def manageable(backend: Backend, known: Iterable[Any]) -> list[dict[str, Any]]:
    """Return what is on the shares, as Cinder's API shows it."""
    volumes = {volume.name: volume for volume in known}
    return [entry for share in backend.driver._mounted_shares
            for entry in native(lambda at: list(_entries(
                at, backend.share_folder(at), volumes)), share)]


def page(entries: list[dict[str, Any]], *request: Any) -> Any:
    """Return the part of a list that a request asks for."""
    return volume_utils.paginate_entries_list(entries, *request)


def inspect(path: Path, said: Format | None) -> tuple[Format | None, int]:
    """Return format and size of a file that nobody uses.

    :param said: what the operator says.
    :returns: no format where the header could be either.
    :raises ChainError: it cannot become a volume.
    """
    if opened_by_qemu(path):
        raise errors.BadLayer(file=path, reason='a QEMU process has it open')
    looks = str(format_inspector.detect_file_format(str(path)))
    if said is Format.QCOW2 or looks == 'qcow2' and said is None:
        header = qcow2.read_header(path)
        if header.backing is not None:
            raise errors.BadBacking(file=path, backing=header.backing,
                                    reason='a volume must stand alone')
        if header.encrypted:
            raise errors.BadLayer(file=path, reason='is encrypted')
        return said, header.virtual_size
    if said is None and looks not in _DISKS:
        raise errors.BadLayer(
            file=path, reason=f'is a {looks} image; volumes are raw or qcow2')
    with open_layer(path) as fd:
        return Format.RAW, os.fstat(fd).st_size


def _find(backend: Backend, reference: Reference) -> Found:
    """Return the file that an operator means, with its format.

    :raises BadReference: it cannot become a volume; says why.
    """
    try:
        share, path = _locate(backend, reference)
        said = _said(reference)
        form, size = native(inspect, path, said)
        if form is None:
            raise failures.NeedsFormat(existing_ref=dict(reference))
        _check_free(backend, share, path)
    except errors.ChainError as exc:
        raise failures.BadReference(existing_ref=dict(reference),
                                    reason=str(exc)) from exc
    return Found(share, path, form, size)


def _said(reference: Reference) -> Format | None:
    said = reference.get(_FORMAT)
    if said is None:
        return None
    if said not in tuple(Format):
        raise errors.BadName(what='format', name=said,
                             reason='volumes are raw or qcow2')
    return Format(said)


def _locate(backend: Backend, reference: Reference) -> tuple[str, Path]:
    """Return the share and the path of ``<share>/<path on it>``."""
    name = reference.get(_NAME, '')
    for share in backend.driver._mounted_shares:
        inside = PurePosixPath(name)
        if not inside.is_relative_to(share):
            continue
        folder = backend.share_folder(share)
        path = folder / inside.relative_to(share)
        if '..' not in inside.parts and path.parent.resolve() \
                .is_relative_to(folder.resolve()) and path != folder:
            return share, path
    raise errors.BadName(what=_NAME, name=name, reason='it is no file on a '
                         'share of this backend, <share>/<file>')


def _check_free(backend: Backend, share: str, path: Path) -> None:
    """See that a file belongs to no volume and nothing lies on it."""
    taken = {volume.name for volume in objects.VolumeList.get_all(
        backend.context(), filters={'provider_location': share})}
    if path.name.split('.')[0] in taken or path.name.endswith(RESERVED):
        raise errors.BadLayer(file=path, reason='belongs to a volume')
    for other in native(_siblings, path):
        raise errors.BadLayer(file=path, reason=f'{other} lies on it')


def _siblings(path: Path) -> list[str]:
    """Return files that look like layers on top of one."""
    found = []
    for name in sorted(os.listdir(path.parent)):
        if name.startswith(path.name + '.') and not name.endswith(RESERVED):
            try:
                header = qcow2.read_header(path.parent / name)
            except errors.BadLayer:
                continue
            if header.backing == path.name:
                found.append(name)
    return found


def _take(path: Path, files: VolumeFiles, form: Format, mode: int) -> None:
    """Give a file the name of a volume; its format is pinned first."""
    with VolumeLock(files), denied_to_qemu(path):
        if opened_by_qemu(path):
            raise errors.BadLayer(file=path,
                                  reason='a QEMU process has it open')
        if os.path.lexists(files.base) and path != files.base:
            raise errors.BadTarget(file=files.base, reason='exists already')
        shares.set_mode(path, mode)
        Store(files).write_journal(Journal(
            MappingProxyType({files.name: Pinned(form)})))
        path.rename(files.base)
        sync_folder(files.folder)


def _release(files: VolumeFiles) -> None:
    """Remove what is kept beside a volume."""
    with VolumeLock(files):
        for path in (files.info, files.journal, files.lock):
            path.unlink(missing_ok=True)
        sync_folder(files.folder)


def _entries(share: str, folder: Path, volumes: Mapping[str, Any],
             ) -> Iterator[dict[str, Any]]:
    """Yield the files of one share that are or could be volumes."""
    for name in sorted(os.listdir(folder)):
        volume = volumes.get(name.split('.')[0])
        path = folder / name
        if (name.startswith('.') or name.endswith(RESERVED)
                or not path.is_file() or volume and name != volume.name):
            continue
        entry = {'reference': {_NAME: f'{share}/{name}'}, 'size': None,
                 'safe_to_manage': False, 'reason_not_safe': None,
                 'cinder_id': None, 'extra_info': None}
        if volume:
            yield {**entry, 'size': volume.size, 'cinder_id': volume.id,
                   'reason_not_safe': 'it is a volume already'}
        else:
            yield {**entry, **_judge(path)}


def _judge(path: Path) -> dict[str, Any]:
    """Say whether a file that is no volume could become one."""
    try:
        form, size = inspect(path, None)
        for other in _siblings(path):
            raise errors.BadLayer(file=path, reason=f'{other} lies on it')
    except errors.ChainError as exc:
        return {'reason_not_safe': str(exc)}
    return {'size': -(-size // units.Gi), 'safe_to_manage': True,
            'extra_info': failures.SAY_FORMAT if form is None else None}
