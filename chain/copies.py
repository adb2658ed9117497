# SPDX-License-Identifier: Apache-2.0
"""Clone and extend.

A clone is written under a temporary name and appears complete or not at
all.  This module must never write to a layer of the source, and never
decrypt onto a share.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
from types import MappingProxyType

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import names
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.merge import image
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.store import dress
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import Pinned
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.store import sync_file
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Volume

_SECTOR = 512


def begin_clone(volume: Volume, snapshot_id: str, target: Path,
                form: Format, size: int | None,
                state: VolumeState) -> Operation:
    """Check and write down a clone of a snapshot."""
    source = _source(volume, snapshot_id, state)
    wanted = source.virtual_size if size is None else size
    _check_size(volume, wanted, source.virtual_size, 'the snapshot has')
    _check_target(volume, target)
    if source.active.encrypted and form is Format.RAW:
        raise errors.BadTarget(
            file=target, reason='a raw clone of an encrypted volume would '
                                'not be encrypted')
    volume.check_space('clone', min(source.allocated, source.virtual_size),
                       target.parent)
    operation = Operation('clone', snapshot_id, 'copy', False, {
        'target': _shown(volume, target), 'format': str(form),
        'source': source.active.name, 'size': wanted,
        'resize': wanted != source.virtual_size})
    volume.begin(operation, state)
    return operation


def carry_on_clone(volume: Volume, operation: Operation) -> None:
    """Copy, flush, resize, and give it its name."""
    target = _target(volume, operation)
    with _reserved(volume, target):
        try:
            _check_target(volume, target)
        except errors.BadTarget:  # another clone was faster
            volume.drop()
            raise
        _clone(volume, operation, target)


def _clone(volume: Volume, operation: Operation, target: Path) -> None:
    form = Format(operation.details['format'])
    source = image(volume.files, str(operation.details['source']),
                   volume.formats())
    aside = target.with_name(target.name + '.tmp')
    made = Image(aside.name, form, 0, source.encrypted)
    try:
        _write(volume, operation, source, aside, made)
    except errors.ImageToolFailed:
        aside.unlink(missing_ok=True)
        _undo_clone(volume, target)
        raise
    volume.step('flush')
    fd = os.open(aside, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        dress(fd, volume.files.path(source.name).stat())
        os.fsync(fd)
    finally:
        os.close(fd)
    _pin(volume, target, made)
    volume.step('give it its name')
    aside.rename(target)
    sync_folder(target.parent)
    volume.drop()


def _write(volume: Volume, operation: Operation, source: Image, aside: Path,
           made: Image) -> None:
    """Write a clone under its temporary name."""
    volume.step('copy')
    aside.unlink(missing_ok=True)
    volume.tool.convert(source, aside.absolute(), made.format)
    if operation.details['resize']:
        volume.step('resize')
        volume.tool.resize(made, int(operation.details['size']),
                           aside.absolute())


def resume_clone(volume: Volume, operation: Operation) -> None:
    """Remove what an unfinished clone has left; a finished one stays.

    Outside of the volume's folder nothing is removed on the word of a
    journal; the next clone of that name replaces what is there.
    """
    target = _target(volume, operation)
    with _reserved(volume, target):
        _undo_clone(volume, target)


def _undo_clone(volume: Volume, target: Path) -> None:
    if target.parent == volume.files.folder:
        volume.remove(target.with_name(target.name + '.tmp'))
        if not target.exists():
            volume.remove(target.with_name(target.name + '.journal'))
            volume.remove(VolumeFiles(target.parent, target.name).lock)
    volume.drop()


@contextmanager
def _reserved(volume: Volume, target: Path) -> Iterator[None]:
    """Keep others off a clone that will be a volume of the same share.

    Clones of two volumes could else write to one temporary file.
    """
    if target.parent != volume.files.folder:
        yield
        return
    with VolumeLock(VolumeFiles(target.parent, target.name)):
        yield


def begin_extend(volume: Volume, size: int,
                 state: VolumeState) -> Operation | None:
    """Check and write down a growth; None where it has that size."""
    _check_size(volume, size, state.chain.virtual_size, 'it has')
    volume.detached(state, 'extend')
    if size == state.chain.virtual_size:
        return None
    operation = Operation('extend', volume.files.name, 'resize', False, {
        'file': state.chain.active.name, 'size': size,
        'from': state.chain.virtual_size})
    volume.begin(operation, state)
    return operation


def carry_on_extend(volume: Volume, operation: Operation) -> None:
    """Make the active layer larger; those below keep their size."""
    name = str(operation.details['file'])
    volume.check_closed(name)
    active = image(volume.files, name, volume.formats())
    volume.step('resize')
    try:
        volume.tool.resize(active, int(operation.details['size']))
    except errors.ImageToolFailed:
        if volume.state().chain.virtual_size == operation.details['from']:
            volume.drop()
        raise
    if active.format is Format.QCOW2:
        volume.step('check the layer')
        volume.tool.mend(active)
    volume.step('flush')
    sync_file(volume.files.path(name))
    volume.finish()


def _source(volume: Volume, snapshot_id: str, state: VolumeState) -> Chain:
    """Return the layers that are a snapshot's content."""
    if snapshot_id not in state.snapshots:
        raise errors.SnapshotNotFound(volume=volume.files.name,
                                      snapshot_id=snapshot_id)
    top = state.chain.names.index(state.snapshots[snapshot_id])
    return Chain(state.chain.layers[:top])


def _check_size(volume: Volume, size: int, least: int, who: str) -> None:
    reason = None
    if size < least:
        reason = f'{who} {least} bytes, and nothing shrinks'
    elif size % _SECTOR and size != least:
        reason = f'it is no multiple of {_SECTOR}'
    if reason:
        raise errors.BadSize(volume=volume.files.name, size=size,
                             reason=reason)


def _shown(volume: Volume, target: Path) -> str:
    """Return a target as the journal names it: bare in the same folder."""
    if target.parent == volume.files.folder:
        return target.name
    return str(target.absolute())


def _target(volume: Volume, operation: Operation) -> Path:
    shown = str(operation.details['target'])
    target = volume.files.folder / shown
    _check_name(volume, target)
    return target


def _check_name(volume: Volume, target: Path) -> None:
    """See that a clone in the volume's folder is a volume of its own."""
    names.check_name('clone', target.name)
    if target.parent == volume.files.folder:
        VolumeFiles(target.parent, target.name)
        if volume.files.owns(target.name):
            raise errors.BadTarget(
                file=target, reason=f'is a name of {volume.files.name}')


def _check_target(volume: Volume, target: Path) -> None:
    """See that a clone can be made and nothing is in its place."""
    _check_name(volume, target)
    for suffix in ('', '.info', '.journal'):
        taken = target.with_name(target.name + suffix)
        if os.path.lexists(taken):
            raise errors.BadTarget(file=taken, reason='exists already')


def _pin(volume: Volume, target: Path, made: Image) -> None:
    """Pin the format of a clone that is a volume of the same share."""
    if target.parent == volume.files.folder:
        volume.step('pin the format of the clone')
        Store(VolumeFiles(target.parent, target.name)).write_journal(Journal(
            MappingProxyType({target.name: Pinned(made.format,
                                                  made.encrypted)})))
