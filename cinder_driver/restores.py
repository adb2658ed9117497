# SPDX-License-Identifier: Apache-2.0
"""Whether a backup can become the content of an encrypted volume.

A backup of an encrypted volume is a LUKS container with the key of its
source.  Cinder gives the volume that key while it restores, whatever comes
of it, so what cannot end well must be refused before the first byte:
afterwards nobody would know the key of the layers that are there.  This
module must never let go of a passphrase.
"""

from __future__ import annotations

from cinder import objects
from cinder.objects import fields

from assisted_snapshots.chain.value import Chain
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import secrets
from assisted_snapshots.cinder_driver.backend import Backend


class PlainBackup(failures.Refused):
    """What was written would be taken for a container."""

    message = ('backup %(backup)s is of a volume without encryption and '
               'volume %(volume)s is encrypted; nothing was restored, '
               'restore it into a volume without encryption')


class OtherKey(failures.Refused):
    """All layers of a volume have one key."""

    message = ('backup %(backup)s has another key than volume %(volume)s, '
               'whose snapshots could not be read any more; nothing was '
               'restored, restore it into a new volume')


def check(backend: Backend, volume: objects.Volume, chain: Chain) -> None:
    """See that the backup that is being restored fits, if there is one.

    :param volume: fresh, and locked.
    :raises Refused: it does not.
    """
    if not volume.encryption_key_id:
        return
    context = backend.context()
    for backup in objects.BackupList.get_all(context, filters={
            'restore_volume_id': volume.id,
            'status': fields.BackupStatus.RESTORING}):
        if not backup.encryption_key_id:
            raise PlainBackup(backup=backup.id, volume=volume.id)
        if len(chain.layers) > 1 and not secrets.alike(
                context, volume, backup.encryption_key_id):
            raise OtherKey(backup=backup.id, volume=volume.id)
