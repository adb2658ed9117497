# SPDX-License-Identifier: Apache-2.0
"""Cinder's own connections see what a guest would see.

Backup, migration and the generic revert connect a volume by os-brick and
read or write what they get as raw bytes.  So they get the volume's content,
never a container:

====================================  =====================================
volume                                connection
====================================  =====================================
one raw layer                         the file itself, as upstream
else, connected on this host          a FUSE export (:mod:`.exported`)
else: another host, encrypted, a      a file on the share (:mod:`.staged`)
cluster, no FUSE, a writer that
expects an empty target
====================================  =====================================

A view ends when it is closed.  Where nobody closes it, because a service
was killed, :mod:`.view_sweep` ends it as soon as the status in the database
says that nobody needs it.  This module must never give such a view to
Nova, and never one that can be written to whoever only reads.
"""

from __future__ import annotations

from dataclasses import dataclass
import os
from pathlib import Path
import re
import socket
from typing import Any

from cinder import objects
from oslo_config import cfg

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cinder_driver import exported
from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver import metadata
from assisted_snapshots.cinder_driver import restores
from assisted_snapshots.cinder_driver import secrets
from assisted_snapshots.cinder_driver import storage_daemon
from assisted_snapshots.cinder_driver import view_needs
from assisted_snapshots.cinder_driver import view_records
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.backend import size_bytes
from assisted_snapshots.cinder_driver.connections import check_size
from assisted_snapshots.cinder_driver.exported import Exported
from assisted_snapshots.cinder_driver.native import native
from assisted_snapshots.cinder_driver.staged import RECORD
from assisted_snapshots.cinder_driver.staged import Staged
from assisted_snapshots.cinder_driver.staged import tag
from assisted_snapshots.cinder_driver.view_records import DELIVER
from assisted_snapshots.cinder_driver.view_records import OPEN
from assisted_snapshots.cinder_driver.view_records import Record

Connection = dict[str, Any]


class EncryptedMove(errors.ChainError):
    """A container does not fit into what Cinder copies."""

    message = ('{volume} is encrypted, and Cinder would copy its size '
               'without the room of the LUKS header: the last bytes would '
               'be lost.  Nothing was copied; back it up and restore it '
               'instead')


@dataclass(frozen=True)
class Subject:
    """What a view is of.

    :ivar volume: fresh.
    """

    volume: objects.Volume
    snapshot_id: str | None
    files: VolumeFiles

    @property
    def name(self) -> str:
        """Of the view's files."""
        if self.snapshot_id is None:
            return self.files.name
        return self.files.overlay(self.snapshot_id)


class Views:
    """The raw views of one backend; called with the volume locked."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def is_own(self, volume: objects.Volume,
               connector: Connection | None) -> bool:
        """Tell whether it is Cinder itself that connects.

        :param volume: fresh.
        """
        return view_needs.is_own(volume, connector)

    def open(self, volume: objects.Volume,
             connector: Connection) -> Connection:
        """Show the volume to Cinder; connection information for os-brick.

        :raises ViewFailed: QEMU's storage daemon cannot show it.
        :raises EncryptedMove: what would be copied is not all.
        :raises Refused: a backup's key does not fit.
        """
        subject = self._subject(volume)
        self._settle(subject)
        state = native(self.backend.settled(subject.volume).state)
        check_size(subject.volume, state)
        purpose = view_needs.purpose(subject.volume)
        if purpose == view_needs.LOOK:
            # A view would cost as much as the copy that is looked at, and
            # what is not written into it would be lost.
            return self._on_share(subject, state.chain.active.name)
        writable = purpose in (view_needs.WRITE, view_needs.REPLACE)
        if writable:
            restores.check(self.backend, subject.volume, state.chain)
        return self._open(subject, connector, state.chain, writable)

    def open_snapshot(self, snapshot: objects.Snapshot,
                      connector: Connection) -> Connection:
        """Show what a snapshot holds; works beside a running guest.

        What a crash has cut short ends first: the layers of a snapshot
        that is half deleted hold something else already.

        :raises SnapshotNotFound: the chain does not know it.
        """
        subject = self._subject(snapshot.volume, snapshot.id)
        operations = guests.settled(self.backend, subject.volume,
                                    at_rest=True)
        held = native(operations.state).held(str(snapshot.id))
        if held is None:
            raise errors.SnapshotNotFound(volume=subject.files.name,
                                          snapshot_id=snapshot.id)
        return self._open(subject, connector, held, False)

    def close(self, volume: objects.Volume,
              connector: Connection | None) -> None:
        """End what :meth:`open` gave this host; nothing else.

        :raises ViewLost: what was written may not be in the volume.
        """
        if connector is not None:
            self._close(self._subject(volume), connector)

    def close_snapshot(self, snapshot: objects.Snapshot,
                       connector: Connection | None) -> None:
        """End what :meth:`open_snapshot` gave this host."""
        if connector is not None:
            self._close(self._subject(snapshot.volume, snapshot.id),
                        connector)

    def settle(self, volume: objects.Volume) -> None:
        """Bring into the volume what a crash kept from it.

        For whatever hands the volume out.
        """
        self._settle(self._subject(volume))

    def drop(self, volume: objects.Volume) -> None:
        """End all views of a volume that goes, its snapshots' included."""
        files = self.backend.files(volume)
        for name in list(exported.subjects(self.folder)):
            if files.owns(name):
                native(self.exported(name).end)
        for path in files.folder.glob(f'{files.name}.*.view'):
            path.unlink(missing_ok=True)

    def drop_snapshot(self, snapshot: objects.Snapshot) -> None:
        """End all views of a snapshot that goes."""
        subject = self._subject(snapshot.volume, snapshot.id)
        native(self.exported(subject.name).end)
        for path in subject.files.folder.glob(f'{subject.name}.*.view'):
            path.unlink(missing_ok=True)

    @property
    def folder(self) -> Path:
        """Where this backend's exports are mounted."""
        name = re.sub(r'[^A-Za-z0-9@_.-]', '_', self.backend.host)
        return Path(cfg.CONF.state_path, 'assisted_views', name)

    def exported(self, name: str) -> Exported:
        """Return the export of a subject, which need not be there."""
        return Exported(self.folder, name)

    def _subject(self, volume: objects.Volume,
                 snapshot_id: str | None = None) -> Subject:
        fresh = self.backend.fresh(volume)
        return Subject(fresh, snapshot_id, self.backend.files(fresh))

    # Opening ---------------------------------------------------------------

    def _open(self, subject: Subject, connector: Connection, chain: Chain,
              writable: bool) -> Connection:
        secrets.check_layers(subject.volume, chain)
        if len(chain.layers) == 1 and chain.base.format is Format.RAW:
            return self._on_share(subject, chain.base.name)
        if (chain.active.encrypted and subject.snapshot_id is None
                and view_needs.moves(subject.volume)):
            raise EncryptedMove(volume=subject.files.name)
        wanted = Record(subject.volume.id, subject.snapshot_id, writable,
                        chain.names)
        if self._exports(subject, connector, chain):
            path = native(self.exported(subject.name).open, wanted,
                          subject.files, chain, self._shown_to_root(subject))
            return {'driver_volume_type': 'local',
                    'data': {'device_path': path}}
        staged = self._staged(subject, connector)
        return self._on_share(subject, native(staged.open, wanted, chain))

    def _exports(self, subject: Subject, connector: Connection,
                 chain: Chain) -> bool:
        """Tell whether a FUSE export can serve and be ended again."""
        return (not chain.active.encrypted
                and (subject.snapshot_id is not None or view_needs.purpose(
                    subject.volume) != view_needs.REPLACE)
                and connector.get('host') == socket.gethostname()
                # Another service of a cluster may be asked to end it.
                and not self.backend.driver.cluster_name
                and self.backend.configuration.safe_get(
                    'assisted_raw_views') != 'staged'
                and storage_daemon.usable())

    def _shown_to_root(self, subject: Subject) -> bool:
        """Tell whether root opens the view and this process is not root.

        Cinder's copies between volumes run as root in every mode; its
        backups do not, where file operations are secure.
        """
        return os.geteuid() != 0 and not (
            self.backend.driver.secure_file_operations_enabled()
            and (subject.snapshot_id is not None or subject.volume.status in
                 ('backing-up', 'restoring-backup')))

    def _on_share(self, subject: Subject, name: str) -> Connection:
        """Return the connection of a raw file on the share."""
        driver = self.backend.driver
        share = subject.volume.provider_location
        data = {'export': share, 'name': name, 'format': str(Format.RAW)}
        if driver.shares.get(share):
            data['options'] = driver.shares[share]
        return {'driver_volume_type': driver.driver_volume_type,
                'data': data,
                'mount_point_base': driver._get_mount_point_base()}

    def _staged(self, subject: Subject, connector: Connection) -> Staged:
        name = f'{subject.name}.{tag(str(connector.get("host")))}'
        return Staged(subject.files, name,
                      self.backend.secret(subject.volume))

    # Closing ---------------------------------------------------------------

    def _close(self, subject: Subject, connector: Connection) -> None:
        if connector.get('host') == socket.gethostname():
            view = self.exported(subject.name)
            found = native(view.record)
            if found is not None:
                native(view.close, found, subject.files)
                return
        staged = self._staged(subject, connector)
        found = native(staged.record)
        if found is not None:
            native(staged.close, found, size_bytes(subject.volume),
                   self._chain(subject))
        elif (subject.snapshot_id is None
              and view_needs.is_own(subject.volume, connector)
              and view_needs.purpose(subject.volume) != view_needs.READ
              # Else a view was swept, and the file is a container.
              and metadata.recorded(subject.volume).get(
                  metadata.FORMAT, Format.RAW) == Format.RAW):
            native(_mend_size, subject.files, size_bytes(subject.volume))

    def _settle(self, subject: Subject) -> None:
        """Deliver, or remove, what a crash left of staged views."""
        pattern = f'{subject.files.name}.*{RECORD}'
        for path in sorted(subject.files.folder.glob(pattern)):
            staged = Staged(subject.files, path.name.removesuffix(RECORD),
                            self.backend.secret(subject.volume))
            found = view_records.readable(staged.record)
            if found is not None and found.step == OPEN:
                continue
            if found is not None and found.step == DELIVER:
                native(staged.deliver_again, size_bytes(subject.volume),
                       self._chain(subject))
            native(staged.remove)

    def _chain(self, subject: Subject) -> Chain:
        return native(self.backend.operations(subject.volume).state).chain


def _mend_size(files: VolumeFiles, size: int) -> None:
    """Give a lone raw layer its size again.

    Who opened it to write cut it off, and has written less.
    """
    if files.base.stat().st_size < size:
        os.truncate(files.base, size)
