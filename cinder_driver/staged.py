# SPDX-License-Identifier: Apache-2.0
"""A raw file on the share for who cannot have a FUSE export.

Another host sees only the share, and an encrypted volume may only be shown
as a block device would show it: as a LUKS container with the volume's own
key.  Such a view is a file beside the volume's layers, with a suffix that
no layer can have:

=============================  ===========================================
volume-V[.S].<tag>.view        the content; the tag tells host from host
volume-V[.S].<tag>.record.view  what it is (:mod:`.view_records`)
=============================  ===========================================

A view that was written to goes into the volume when it is closed.  This is
what a crash leaves, and what :meth:`Staged.settle` does about it:

===========================  =============================================
killed                       then
===========================  =============================================
while the view is made       it is removed: nobody was told of it
while it is used             it stays until nobody needs it
while it is delivered        it is delivered again: all of it is written,
                             and the file is complete until that has ended
after that, not removed yet  the same, which changes nothing
while it is removed          the record is removed, too
===========================  =============================================

Called with the volume locked.  This module must never write plain text of
an encrypted volume, and never touch a layer while the view is still used.
"""

from __future__ import annotations

from dataclasses import replace
import hashlib
import os
from pathlib import Path

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.qemu_img import QemuImg
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.store import blank
from assisted_snapshots.chain.store import sync_file
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import view_records
from assisted_snapshots.cinder_driver.view_records import DELIVER
from assisted_snapshots.cinder_driver.view_records import MAKING
from assisted_snapshots.cinder_driver.view_records import OPEN
from assisted_snapshots.cinder_driver.view_records import Record

SUFFIX = '.view'
RECORD = '.record' + SUFFIX

# What LUKS puts in front, with room to spare.
_LUKS_HEADER = 32 << 20
# What copies reserves address space for its threads.
_COPIES = (f'--as={1 << 33}',)


class ViewBusy(errors.ChainError):
    """There is another view of the same volume."""

    message = ('{volume}: a raw view of it is open that is another one than '
               'asked for; wait until its user has closed it')


class TooMuch(errors.ChainError):
    """More was written to a view than the volume can hold."""

    message = '{file}: holds {found} bytes, the volume has {size}'


class ImageTool(QemuImg):
    """qemu-img between layers and files that are no layers."""

    def export(self, source: Image, target: Path) -> None:
        """Write all that an image shows into a raw file, or a container."""
        form = ['-O', 'raw']
        if source.encrypted:
            form = ['-O', 'luks', *self._container()]
        self._run('convert', target.name, [
            *self._copying(source.name), '-T', self._cache(source.name),
            *form, *self._open(source), str(target)], _COPIES)

    def transform(self, source: Image, target: Path, form: str,
                  compress: bool) -> None:
        """Write all that an image shows into an image of any format."""
        self._run('convert', target.name, [
            '-q', '-T', self._cache(source.name),
            *(['-c'] if compress else []), '-O', form, *self._open(source),
            str(target)], _COPIES)

    def make(self, target: Path, size: int, encrypted: bool) -> None:
        """Make an empty raw file, or an empty container."""
        options = ['-f', 'raw']
        if encrypted:
            options = ['-f', 'luks', *self._container()]
        self._run('create', target.name, [
            '-q', *options, str(target), str(size)], _COPIES)

    def deliver(self, view: Path, target: Image) -> None:
        """Write a raw file's or a container's content over an image."""
        self._run('convert', target.name, [
            '-n', *self._copying(target.name), '-T', 'writeback',
            '--image-opts', '--target-image-opts',
            self._view(view, target.encrypted), self._options(target)],
            _COPIES)

    def rebuild(self, view: Path, target: Path, encrypted: bool,
                container: bool) -> None:
        """Write the same into a new qcow2 file.

        :param container: what is read is encrypted, too.
        """
        made = Image(target.name, Format.QCOW2, 0, encrypted)
        self._run('convert', target.name, [
            *self._copying(view.name), '-T', 'writeback', '-O', made.format,
            *self._luks(made), '--image-opts', self._view(view, container),
            str(target)], _COPIES)

    def _container(self) -> list[str]:
        options = [('key-secret', 'luks')]
        if self._secret:
            options += self._secret.cipher
        if self._secret and self._secret.stretch_ms is not None:
            options += [('iter-time', str(self._secret.stretch_ms))]
        return ['-o', ','.join(f'{key}={value}' for key, value in options)]

    def _view(self, view: Path, encrypted: bool) -> str:
        name = str(view).replace(',', ',,')
        form = 'luks,key-secret=luks' if encrypted else 'raw'
        return f'driver={form},file.driver=file,file.filename={name}'


def tag(host: str) -> str:
    """Return what tells the views of one host from those of another."""
    return hashlib.sha256(host.encode()).hexdigest()[:12]


def shown(chain: Chain) -> Image:
    """Return a chain as what qemu-img works on."""
    return Image(chain.active.name, chain.active.format,
                 len(chain.layers) - 1, chain.active.encrypted)


def view_of(record: Path) -> Path:
    """Return the view that a record is of."""
    return record.with_name(record.name.removesuffix(RECORD) + SUFFIX)


class Staged:
    """One staged view.

    :param files: of the volume.
    :param name: ``volume-V[.S].<tag>``.
    """

    def __init__(self, files: VolumeFiles, name: str,
                 secret: Secret | None) -> None:
        self.files = files
        self._at = files.folder / (name + RECORD)
        self.path = view_of(self._at)
        self._tool = ImageTool(files.folder, secret)

    def record(self) -> Record | None:
        """Return what is known of it."""
        return view_records.load(self._at)

    def open(self, wanted: Record, chain: Chain) -> str:
        """Make the view, or share it with those who have it; its name.

        :raises ViewBusy: it is another one.
        """
        found = self.record()
        if found is not None:
            if found.step != OPEN or not found.shows(wanted):
                raise ViewBusy(volume=self.files.name)
            view_records.save(self._at, replace(found, users=found.users + 1))
            return self.path.name
        view_records.save(self._at, replace(wanted, step=MAKING))
        try:
            self._make(wanted, chain)
        except errors.ChainError:
            self.remove()
            raise
        view_records.save(self._at, replace(wanted, step=OPEN))
        return self.path.name

    def close(self, found: Record, size: int, chain: Chain) -> None:
        """End one use; the last one delivers what was written."""
        if found.users > 1:
            view_records.save(self._at, replace(found, users=found.users - 1))
            return
        if found.writable:
            view_records.save(self._at, replace(found, step=DELIVER))
            self.deliver(size, chain)
        self.remove()

    def deliver(self, size: int, chain: Chain) -> None:
        """Write the view's content into the volume, and see it safe."""
        target = shown(chain)
        # Who opened it to write may have cut it off behind the last byte.
        held = self.path.stat().st_size
        if held > size + (_LUKS_HEADER if target.encrypted else 0):
            raise TooMuch(file=self.path, found=held, size=size)
        if not target.encrypted and held < size:
            os.truncate(self.path, size)
        if target.encrypted and not target.depth:
            self._replace(target, size)
            return
        self._tool.deliver(self.path, target)
        sync_file(self.files.path(target.name))

    def deliver_again(self, size: int, chain: Chain) -> None:
        """Deliver what a crash has cut short.

        Only what has been delivered is removed, so where there is no view
        any more nothing is left to do.
        """
        try:
            with open_layer(self.path):
                pass
        except errors.MissingLayer:
            return
        self.deliver(size, chain)

    def remove(self) -> None:
        """Remove the view, and then the record of it."""
        for path in (self.path, self._at):
            path.unlink(missing_ok=True)
        sync_folder(self.files.folder)

    def _make(self, wanted: Record, chain: Chain) -> None:
        source = shown(chain)
        blank(self.path, self.files.path(source.name).stat())
        if wanted.writable:
            self._tool.make(self.path, chain.virtual_size, source.encrypted)
        else:
            # In a container even what is zero is written.
            self._check_space(chain.virtual_size + _LUKS_HEADER
                              if source.encrypted else
                              min(chain.allocated, chain.virtual_size))
            self._tool.export(source, self.path)
        sync_file(self.path)

    def _replace(self, target: Image, size: int) -> None:
        """Put a new layer in place of a lone encrypted one.

        The restored container has the key of the backup, which need not be
        the one of the layer that is there.
        """
        place = self.files.path(target.name)
        aside = place.with_name(place.name + '.tmp')
        blank(aside, place.stat())
        self._tool.rebuild(self.path, aside, target.encrypted, True)
        made = Image(aside.name, Format.QCOW2, 0, target.encrypted)
        self._tool.resize(made, size, aside)
        sync_file(aside)
        aside.rename(place)
        sync_folder(place.parent)

    def _check_space(self, needed: int) -> None:
        found = os.statvfs(self.files.folder)
        free = found.f_bavail * found.f_frsize
        if needed > free:
            raise errors.NoSpace(volume=self.files.name, kind='a raw view',
                                 needed=needed, free=free)
