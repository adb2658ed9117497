# SPDX-License-Identifier: Apache-2.0
"""A FUSE export of a chain on this host, with its users counted.

The record (:mod:`.view_records`) and the mount lie in Cinder's state path;
neither is on the share.  A crash leaves a record and perhaps a daemon and a
mount; :meth:`Exported.end` removes whichever of them there are.  Called
with the volume locked.  This module must never show an encrypted volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import sync_file
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.cinder_driver import storage_daemon
from assisted_snapshots.cinder_driver import view_records
from assisted_snapshots.cinder_driver.staged import ViewBusy
from assisted_snapshots.cinder_driver.storage_daemon import Node
from assisted_snapshots.cinder_driver.view_records import OPEN
from assisted_snapshots.cinder_driver.view_records import Record

_RECORD = '.json'


class Exported:
    """The export of one subject.

    :param folder: of this backend's mounts.
    :param subject: the volume's name, or that and a snapshot's id.
    """

    def __init__(self, folder: Path, subject: str) -> None:
        self.mount = folder / subject
        self._at = folder / (subject + _RECORD)

    def record(self) -> Record | None:
        """Return what is known of it."""
        return view_records.load(self._at)

    def open(self, wanted: Record, files: VolumeFiles, chain: Chain,
             others: bool) -> str:
        """Start the export, or share it with those who have it; its path.

        :param others: root must be able to open it, too.
        :raises ViewBusy: it is another one.
        """
        found = self.record()
        if found is not None and storage_daemon.alive(self.mount):
            if not found.shows(wanted):
                raise ViewBusy(volume=files.name)
            view_records.save(self._at, replace(found, users=found.users + 1))
            return str(self.mount)
        self.end()
        self.mount.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        view_records.save(self._at, replace(wanted, step=OPEN))
        try:
            self.mount.touch(mode=0o600)
            storage_daemon.start(
                self.mount, [Node(files.path(layer.name), layer.format)
                             for layer in chain.layers],
                writable=wanted.writable, others=others)
        except BaseException:
            self.end()
            raise
        return str(self.mount)

    def close(self, found: Record, files: VolumeFiles) -> None:
        """End one use; the last one sees that what was written is safe.

        :raises ViewLost: something may not be.
        """
        if found.users > 1:
            view_records.save(self._at, replace(found, users=found.users - 1))
            return
        try:
            if found.writable:
                storage_daemon.flush(self.mount)
        finally:
            self.end()
        if found.writable:
            sync_file(files.path(found.layers[-1]))

    def end(self) -> None:
        """End it, whoever uses it; the record goes last."""
        if self.mount.parent.is_dir():
            storage_daemon.stop(self.mount)
            self.mount.unlink(missing_ok=True)
            self._at.with_name(self._at.name + '.tmp').unlink(
                missing_ok=True)
            self._at.unlink(missing_ok=True)


def subjects(folder: Path) -> Iterator[str]:
    """Yield the subjects that have an export or remains of one."""
    if folder.is_dir():
        yield from sorted({
            path.name.removesuffix('.tmp').removesuffix(_RECORD)
            .removesuffix('.pid') for path in folder.iterdir()})
