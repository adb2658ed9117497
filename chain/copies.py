# SPDX-License-Identifier: Apache-2.0
"""Clone: the content of a volume or a snapshot as a volume of its own.

A clone is written under a temporary name and appears complete or not at
all.  It takes the cheapest way there is:

- one layer that has the wanted format already is copied as a file, sharing
  its extents where the share can;
- so is the base of a chain, if the share can; then the overlays are
  committed into it, so only their bytes are copied;
- else qemu-img copies what shows.

This module must never write to a layer of the source, and never decrypt
onto a share.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextlib import contextmanager
from contextlib import nullcontext
import os
from pathlib import Path
from types import MappingProxyType

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import filecopy
from assisted_snapshots.chain import names
from assisted_snapshots.chain.growth import check_size
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.reader import read_layers
from assisted_snapshots.chain.store import blank
from assisted_snapshots.chain.store import dress
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import Pinned
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Volume


def begin_clone(volume: Volume, snapshot_id: str | None, target: Path,
                form: Format, size: int | None, state: VolumeState,
                secret: Secret | None) -> Operation:
    """Check and write down a clone.

    :param snapshot_id: None for the current content of a detached volume.
    :param secret: of the clone, if it is to be another one.
    """
    volume.check_encrypted(state)
    if snapshot_id is None:
        volume.detached(state, 'a clone of the current content')
    source = _source(volume, snapshot_id, state)
    wanted = source.virtual_size if size is None else size
    check_size(volume, wanted, source.virtual_size, 'the source has')
    _check_target(volume, target)
    if (source.active.encrypted or secret) and form is Format.RAW:
        raise errors.BadTarget(
            file=target, reason='a raw clone of an encrypted volume would '
                                'not be encrypted')
    needed = _most(source)
    if _as_files(volume, source, form, secret):
        needed = min(needed, _overlays(source))
    volume.check_space('clone', needed, target.parent)
    operation = Operation(
        'clone', snapshot_id or volume.files.name, 'copy', False, {
            'target': _shown(volume, target), 'format': str(form),
            'source': source.active.name, 'size': wanted,
            'current': snapshot_id is None})
    volume.begin(operation, state)
    return operation


def carry_on_clone(volume: Volume, operation: Operation,
                   secret: Secret | None) -> None:
    """Copy, flush, resize, and give it its name."""
    target = _target(volume, operation)
    with _reserved(volume, target):
        try:
            _check_target(volume, target)
            with _still(volume, operation):
                _Clone(volume, operation, target, secret).make()
        except (errors.BadTarget, errors.VolumeInUse):
            # Another clone was faster, or a guest.
            volume.drop()
            raise


def _still(volume: Volume,
           operation: Operation) -> AbstractContextManager[None]:
    """Keep guests off an active layer while it is copied.

    Those of a snapshot do not change, and may be in use.
    """
    if not operation.details['current']:
        return nullcontext()
    return volume.guarded(str(operation.details['source']))


class _Clone:
    """A clone in the making."""

    def __init__(self, volume: Volume, operation: Operation, target: Path,
                 secret: Secret | None) -> None:
        self._volume = volume
        self._target = target
        self._aside = _aside(target)
        self._secret = secret
        self._size = int(operation.details['size'])
        self._source = read_layers(
            volume.files, str(operation.details['source']), volume.formats())
        self._made = Image(
            self._aside.name, Format(operation.details['format']), 0,
            secret is not None or self._source.active.encrypted)

    def make(self) -> None:
        """Make it, or leave nothing."""
        volume, target = self._volume, self._target
        try:
            self._write()
        except (errors.ImageToolFailed, errors.NoSpace, OSError):
            _remove_unfinished(volume, target)
            _undo_clone(volume, target)
            raise
        volume.step('flush')
        fd = os.open(self._aside, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            dress(fd, self._path(self._source.active).stat())
            os.fsync(fd)
        finally:
            os.close(fd)
        _pin(volume, target, self._made)
        volume.step('give it its name')
        self._aside.rename(target)
        sync_folder(target.parent)
        volume.drop()

    def _write(self) -> None:
        """Write it under its temporary name."""
        volume, source = self._volume, self._source
        volume.step('copy')
        self._begin(self._aside)
        if self._shared():
            self._enlarge(source.base.virtual_size)
            for layer in source.layers[1:]:
                self._add(layer)
            return
        volume.check_space('clone', _most(source), self._target.parent)
        if len(source.layers) == 1 and self._as_files():
            filecopy.copy_allocated(self._path(source.base), self._aside,
                                    volume.tool.progress)
        else:
            active = source.active
            volume.tool.convert(
                Image(active.name, active.format, len(source.layers) - 1,
                      active.encrypted),
                self._aside.absolute(), self._made.format, self._secret)
        self._enlarge(source.virtual_size)

    def _shared(self) -> bool:
        """Begin with a copy of the base that costs nothing, if possible."""
        return (self._as_files()
                and _overlays(self._source) <= _most(self._source)
                and filecopy.share_extents(self._path(self._source.base),
                                           self._aside))

    def _as_files(self) -> bool:
        return _as_files(self._volume, self._source, self._made.format,
                         self._secret)

    def _begin(self, path: Path) -> None:
        blank(path, self._path(self._source.active).stat())

    def _enlarge(self, size: int) -> None:
        """Give it its size, before anything is added beyond the base's."""
        if size != self._size:
            self._volume.step('resize')
            self._volume.tool.other(self._secret).resize(
                self._made, self._size, self._aside.absolute())

    def _add(self, layer: Layer) -> None:
        """Commit what an overlay holds into the copy.

        From a copy of the overlay, as qemu-img wants to write to both.
        """
        path = _overlay_aside(self._target)
        self._volume.step('add an overlay')
        self._begin(path)
        if not filecopy.share_extents(self._path(layer), path):
            filecopy.copy_allocated(self._path(layer), path, None)
        self._volume.tool.commit_onto(
            Image(layer.name, layer.format, 1, layer.encrypted),
            path.absolute(), self._made, self._aside.absolute())
        path.unlink()

    def _path(self, layer: Layer) -> Path:
        return self._volume.files.path(layer.name)


def _as_files(volume: Volume, source: Chain, form: Format,
              secret: Secret | None) -> bool:
    """Tell whether a copy of the base's file can be the clone's."""
    return source.base.format is form and (
        secret is None
        or source.base.encrypted and volume.tool.has(secret))


def _overlays(source: Chain) -> int:
    """Return the bytes that all layers but the base may hold."""
    return source.allocated - source.base.allocated


def _most(source: Chain) -> int:
    """Return the bytes that a clone without shared extents may need."""
    return min(source.allocated, source.virtual_size)


def _aside(target: Path) -> Path:
    return target.with_name(target.name + '.tmp')


def _overlay_aside(target: Path) -> Path:
    return target.with_name(target.name + '.overlay.tmp')


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
        _remove_unfinished(volume, target)
        if not target.exists():
            volume.remove(target.with_name(target.name + '.journal'))
            volume.remove(VolumeFiles(target.parent, target.name).lock)
    volume.drop()


def _remove_unfinished(volume: Volume, target: Path) -> None:
    for path in (_aside(target), _overlay_aside(target)):
        volume.remove(path)


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


def _source(volume: Volume, snapshot_id: str | None,
            state: VolumeState) -> Chain:
    """Return the layers that are a snapshot's content, or the volume's."""
    if snapshot_id is None:
        return state.chain
    held = state.held(snapshot_id)
    if held is None:
        raise errors.SnapshotNotFound(volume=volume.files.name,
                                      snapshot_id=snapshot_id)
    return held


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
