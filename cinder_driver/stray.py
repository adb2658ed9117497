# SPDX-License-Identifier: Apache-2.0
"""An overlay that no record knows, left by a snapshot that failed.

Upstream's driver leaves one when it dies between making it and writing
.info, or when Nova refuses.  It blocks the volume, because a guest could
have written to it.  It goes with its snapshot, but only when nobody did:
it must never be removed when it holds anything, when something lies on it,
or when somebody has it open.
"""

from __future__ import annotations

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.lock import denied_to_qemu
from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import RESERVED
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.store import sync_folder


def remove(files: VolumeFiles, snapshot_id: str) -> bool:
    """Remove the overlay of a snapshot that was never finished.

    Killed anywhere, it is there or not; asked again, it goes.  Leaves alone
    what .info or the journal know.

    :returns: True if there was one.
    :raises Disagreement: it is no layer, but cannot go either.
    """
    name = files.overlay(snapshot_id)
    path = files.path(name)
    if not path.exists() or _known(files, name, snapshot_id):
        return False
    with VolumeLock(files), denied_to_qemu(path):
        if _known(files, name, snapshot_id):
            return False
        reason = _needed(files, name)
        if reason is not None:
            raise errors.Disagreement(
                volume=files.name,
                reason=f'{files.info.name} does not know {name}, but '
                       f'{reason}')
        path.unlink()
        sync_folder(files.folder)
    return True


def _known(files: VolumeFiles, name: str, snapshot_id: str) -> bool:
    """Tell whether an overlay belongs to the chain, or might."""
    store = Store(files)
    journal = store.read_journal()
    if journal is not None and (
            journal.operation is not None or name in journal.layers
            or snapshot_id in journal.snapshots):
        return True
    try:
        info = store.read_info() or {}
    except errors.BadInfo:
        return True  # the recovery decides
    return snapshot_id in info or name in info.values()


def _needed(files: VolumeFiles, name: str) -> str | None:
    """Return why an overlay cannot be removed."""
    if opened_by_qemu(files.path(name)):
        return 'a QEMU process has it open'
    for other in sorted(files.folder.glob(f'{files.name}*')):
        if (files.owns(other.name) and other.name not in (name, files.name)
                and not other.name.endswith(RESERVED)
                and qcow2.read_header(other).backing == name):
            return f'{other.name} lies on it'
    if next(iter(qcow2.mapped(files.path(name))), None) is not None:
        return 'somebody has written to it'
    return None
