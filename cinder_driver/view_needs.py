# SPDX-License-Identifier: Apache-2.0
"""Whether Cinder itself connects a volume, and what for.

Its backup, migration and generic revert connect a volume as a host would,
but without an attachment record, and under a status that Nova cannot
connect in.  This module must never do anything but read rows.
"""

from __future__ import annotations

from typing import Any

from cinder import context as cinder_context
from cinder import exception
from cinder import objects

READ = 'read'
WRITE = 'write'
#: Written by a copy that skips what is zero, as it expects an empty file.
REPLACE = 'replace'
#: Cinder wants to give a copy a key of its own; it looks what connects the
#: volume, sees that it is a file, and leaves it alone.
LOOK = 'look'

_PURPOSES = {
    'backing-up': READ, 'uploading': READ, 'retyping': READ,
    'maintenance': READ, 'restoring-backup': WRITE, 'creating': WRITE,
    'downloading': REPLACE, 'reverting': REPLACE}

# Nova is on its way, by the old interface without attachment records.
_NOVA = ('attaching', 'reserved')

# Of what a migration says in its own status.
_TARGET = 'target:'
_SOURCE = 'migrating'


def is_own(volume: objects.Volume, connector: dict[str, Any] | None) -> bool:
    """Tell whether it is Cinder itself that connects.

    Nova's connections have an attachment record, or the status that its
    old interface demands.  The one exception: while Nova waits for a volume
    to be written anew, it holds a record without a connector.

    :param volume: fresh.
    """
    if connector is None or volume.status in _NOVA:
        return False
    if any(record.connector or volume.status != 'downloading'
           for record in volume.volume_attachment):
        return False
    return purpose(volume) is not None


def moves(volume: objects.Volume) -> bool:
    """Tell whether the volume is one end of a migration."""
    status = volume.migration_status or ''
    return status == _SOURCE or status.startswith(_TARGET)


def purpose(volume: objects.Volume) -> str | None:
    """Return why Cinder would connect the volume itself, None if not."""
    if moves(volume):
        return READ if volume.migration_status == _SOURCE else WRITE
    # The generic revert's temporary source has never met a guest.
    if volume.status == 'in-use' and not volume.volume_attachment:
        return READ
    if volume.status == 'creating' and volume.encryption_key_id:
        return LOOK
    return _PURPOSES.get(volume.status)


def needed(context: cinder_context.RequestContext, volume: objects.Volume,
           snapshot_id: str | None) -> bool:
    """Tell whether somebody may still use a view.

    :param context: of an administrator.
    """
    if snapshot_id is None:
        return purpose(volume) is not None
    try:
        snapshot = objects.Snapshot.get_by_id(context, snapshot_id)
    except exception.SnapshotNotFound:
        return False
    # A snapshot taken for a backup or an upload is available meanwhile.
    return (snapshot.status == 'backing-up'
            or volume.status in ('backing-up', 'uploading'))
