# SPDX-License-Identifier: Apache-2.0
"""One volume while an operation works on it.

What all operations share: reading the state, journaling, and finding out
who uses the volume.  Everything here is called with the volume's lock held,
but for :meth:`Volume.state`.  This module must never decide what an
operation does.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextlib import contextmanager
from dataclasses import replace
import os
from pathlib import Path
from types import MappingProxyType
from typing import Any

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.guest import GuestSide
from assisted_snapshots.chain.lock import denied_to_qemu
from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.qemu_img import Progress
from assisted_snapshots.chain.qemu_img import QemuImg
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.reader import read_chain
from assisted_snapshots.chain.store import blank
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import Pinned
from assisted_snapshots.chain.store import renew_folder
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.store import sync_file
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState

Names = tuple[str, ...]


class Volume:
    """The files of a volume, its metadata, and its guest, if any.

    See :class:`~assisted_snapshots.chain.operations.Operations` for the
    parameters.
    """

    def __init__(self, files: VolumeFiles, *,
                 formats: Mapping[str, Format] | None,
                 guest: GuestSide | None,
                 lock: AbstractContextManager[Any] | None,
                 secret: Secret | None,
                 observer: Callable[[str], None],
                 progress: Progress | None,
                 keep_active: bool = False) -> None:
        self.files = files
        self.guest = guest
        self.store = Store(files)
        self.tool = QemuImg(files.folder, secret, progress)
        self.step = observer
        self.keep_active = keep_active
        self._given = dict(formats or {})
        self._lock = lock

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the volume's lock; a running qemu-img holds it too."""
        lock = VolumeLock(self.files) if self._lock is None else self._lock
        with lock as held:
            if isinstance(held, VolumeLock):
                self.tool.held = held.fileno()
            renew_folder(self.files.folder)
            try:
                yield
            finally:
                self.tool.held = None

    def journal(self) -> Journal:
        """Return the journal; an adopted volume's is empty."""
        return self.store.read_journal() or Journal()

    def formats(self) -> dict[str, Format]:
        """Return the pinned formats.

        :raises FormatMismatch: the caller pins another format.
        """
        pinned = {name: of.format
                  for name, of in self.journal().layers.items()}
        for name, given in self._given.items():
            if pinned.setdefault(name, given) is not given:
                raise errors.FormatMismatch(
                    file=self.files.folder / name, where='the caller',
                    found=given, pinned=pinned[name])
        return pinned

    def state(self, ignore: Collection[str] = ()) -> VolumeState:
        """Read the volume.

        :raises OperationInFlight: what an unfinished operation has changed
            does not fit together yet.
        """
        renew_folder(self.files.folder)
        try:
            return read_chain(self.files, self.formats(),
                              self.store.read_info(), ignore=ignore)
        except errors.ChainError as exc:
            doing = self.journal().operation
            if doing is None:
                raise
            raise self.in_flight(doing) from exc

    def in_flight(self, doing: Operation) -> errors.OperationInFlight:
        """Return the error that says what is unfinished."""
        return errors.OperationInFlight(
            volume=self.files.name, kind=doing.kind, subject=doing.subject,
            step=doing.step)

    def resumable(self, kind: str, subject: str) -> Operation | None:
        """Return this same operation if it is unfinished.

        :raises OperationInFlight: another one is.
        """
        doing = self.journal().operation
        if doing and (doing.kind, doing.subject) != (kind, subject):
            raise self.in_flight(doing)
        return doing

    def live(self, state: VolumeState) -> Names | None:
        """Return the guest's chain, which is that of the headers.

        :returns: None where the volume is detached.
        :raises Disagreement: the guest runs on other layers.
        :raises VolumeInUse: somebody unknown has it open.
        """
        found = self.ask()
        if found is None:
            self.check_closed(state.chain.active.name)
        elif found != state.chain.names:
            raise self.disagreement(
                f'the guest runs on {" <- ".join(found)}, the headers say '
                f'{" <- ".join(state.chain.names)}')
        return found

    def check_encrypted(self, state: VolumeState) -> None:
        """See that nothing of an encrypted volume is taken for plain.

        :raises NotEncrypted: its layers are something else.
        """
        if self.tool.decrypts and not state.chain.active.encrypted:
            raise errors.NotEncrypted(volume=self.files.name,
                                      file=state.chain.active.name)

    def detached(self, state: VolumeState, kind: str) -> None:
        """See that no guest has the volume.

        :raises VolumeInUse: one has.
        """
        if self.live(state) is not None:
            raise errors.VolumeInUse(
                volume=self.files.name, user='a guest',
                reason=f'{kind} needs a detached volume')

    def ask(self) -> Names | None:
        """Return the live chain as the guest's side tells it."""
        if self.guest is None:
            return None
        found = self.guest.chain(self.files.id)
        return None if found is None else tuple(found)

    def side(self) -> GuestSide:
        """Return the port to the guest that an operation was begun with.

        :raises VolumeInUse: the caller has not given one.
        """
        if self.guest is None:
            raise errors.VolumeInUse(
                volume=self.files.name, user='a guest',
                reason='the unfinished operation was begun on a running '
                       'guest, whose host must be asked')
        return self.guest

    def check_closed(self, name: str) -> None:
        """See that no QEMU has a layer open.

        :raises VolumeInUse: one has.
        """
        if opened_by_qemu(self.files.path(name)):
            raise errors.VolumeInUse(
                volume=self.files.name, user='a QEMU process',
                reason=f'{name} is locked')

    @contextmanager
    def kept_closed(self, name: str) -> Iterator[None]:
        """Keep guests off a layer; not for what qemu-img works on.

        :raises VolumeInUse: one has it open.
        """
        with denied_to_qemu(self.files.path(name)):
            self.check_closed(name)
            yield

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Keep guests off a layer while qemu-img works on it.

        A running qemu-img keeps them off too, whatever becomes of us.

        :raises VolumeInUse: one has it open.
        """
        with denied_to_qemu(self.files.path(name)) as fd:
            self.check_closed(name)
            self.tool.denied[name] = fd
            try:
                yield
            finally:
                del self.tool.denied[name]

    def keeps_active(self, attached: bool) -> bool:
        """Tell whether the active file must be the same afterwards."""
        return (bool(getattr(self.guest, 'keeps_active', False))
                if attached else self.keep_active)

    def disagreement(self, reason: str) -> errors.Disagreement:
        """Return the error of a third state."""
        return errors.Disagreement(volume=self.files.name, reason=reason)

    def begin(self, operation: Operation, state: VolumeState) -> None:
        """Write down what will be done, before anything is touched."""
        self.step('write the intent')
        self.store.write_journal(replace(_known(state), operation=operation))

    def advance(self, operation: Operation, step: str,
                **changes: Any) -> Operation:
        """Write down that a step is done and the next may begin."""
        self.step(f'journal {step}')
        later = replace(operation, step=step, **changes)
        self.store.write_journal(replace(self.journal(), operation=later))
        return later

    def finish(self) -> None:
        """Read what has become of the volume, and end the operation."""
        self.step('end the operation')
        state = read_chain(self.files, self.formats(),
                           self.store.read_info())
        self.store.write_journal(_known(state))

    def drop(self) -> None:
        """End an operation that has been undone."""
        self.step('drop the operation')
        self.store.write_journal(replace(self.journal(), operation=None))

    def make_overlay(self, name: str, below: str, size: int,
                     like: str) -> None:
        """Make an empty layer, with owner and mode of another one."""
        pinned = self.journal().layers[below]
        path = self.files.folder / name
        blank(path, self.files.path(like).stat())
        self.tool.create(Image(name, Format.QCOW2, 0, pinned.encrypted),
                         size, (below, pinned.format))
        sync_file(path)
        sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """Unlink a file if it is there."""
        self.step(f'unlink {path.name}')
        path.unlink(missing_ok=True)
        sync_folder(path.parent)

    def check_space(self, kind: str, needed: int,
                    folder: Path | None = None) -> None:
        """See that what may be written fits.

        :raises NoSpace: it does not.
        """
        found = os.statvfs(folder or self.files.folder)
        free = found.f_bavail * found.f_frsize
        if needed > free:
            raise errors.NoSpace(volume=self.files.name, kind=kind,
                                 needed=needed, free=free)


def _known(state: VolumeState) -> Journal:
    return Journal(
        MappingProxyType({layer.name: Pinned(layer.format, layer.encrypted)
                          for layer in state.chain.layers}),
        state.snapshots)
