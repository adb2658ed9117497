# SPDX-License-Identifier: Apache-2.0
"""The end of a migration: the new files get the volume's own name.

This module must never replace a file, and never leave the journal under a
name that its volume does not have.
"""

from __future__ import annotations

from dataclasses import replace
import os
from types import MappingProxyType
from typing import Any

from cinder import objects
from oslo_config import cfg
from oslo_log import log as logging

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import native

LOG = logging.getLogger(__name__)


def update(backend: Backend, volume: objects.Volume,
           new: objects.Volume, status: str) -> dict[str, Any]:
    """Return what of a migrated volume's row has changed.

    On the same share, and under a guest, the volume keeps the new files'
    name as its ``name_id``.  Both rows get the formats of the new files:
    Cinder exchanges what they say, or not, and of the old files only
    deletion is left.
    """
    with backend.locked(volume.id, new.id), failures.translated():
        fresh = backend.fresh(new)
        state = native(backend.settled(fresh).state)
        is_free = (status == 'available' and volume.provider_location
                   != fresh.provider_location)
        renamed = is_free and _rename(backend, volume, fresh)
        for row in (fresh, backend.fresh(volume)):
            backend.note(row, state)
    return {'_name_id': None if renamed else fresh.name_id,
            'provider_location': fresh.provider_location}


def _rename(backend: Backend, volume: objects.Volume,
            new: objects.Volume) -> bool:
    """Give the new files the volume's name, if that is possible."""
    old = backend.files(new)
    target = VolumeFiles(old.folder,
                         cfg.CONF.volume_name_template % volume.id)
    try:
        native(rename, old, target)
    except (errors.ChainError, OSError) as exc:
        LOG.warning('Volume %s keeps the name %s on its share: %s',
                    volume.id, old.name, exc)
        return False
    return True


def rename(old: VolumeFiles, new: VolumeFiles) -> None:
    """Rename a volume that is one layer, under both names' locks.

    =========================  ============================================
    killed                     then
    =========================  ============================================
    before the rename          the volume has its old name and journal; a
                               journal of the new name has no volume
    after the rename           it has the new name and its journal; the
                               old journal has no volume
    =========================  ============================================

    Neither journal is in the way: one is replaced, the other is removed
    with the row of that name.
    """
    with VolumeLock(old), VolumeLock(new):
        store = Store(old)
        journal, info = store.read_journal(), store.read_info()
        if info is not None and info != {'active': old.name}:
            raise errors.BadTarget(file=old.info, reason='has snapshots')
        if not old.base.exists():
            raise errors.MissingLayer(file=old.base)
        if os.path.lexists(new.base):
            raise errors.BadTarget(file=new.base, reason='exists already')
        if journal is not None:
            Store(new).write_journal(replace(
                journal, snapshots=MappingProxyType({}),
                layers=MappingProxyType({
                    new.name: journal.layers[old.name]})))
        old.base.rename(new.base)
        sync_folder(new.folder)
        for path in (old.info, old.journal, old.lock):
            path.unlink(missing_ok=True)
        sync_folder(old.folder)
