# SPDX-License-Identifier: Apache-2.0
"""What an attachment says of the volume's file.

Nova starts a guest on the file that the attachment's connection info names,
so this has to be right before anybody can start one: right after every
operation, under the volume's lock.  Killed before that, recovery does it:
it follows from the chain alone, and doing it again changes nothing.  This
module must never be told a name by anything but the chain.
"""

from __future__ import annotations

from cinder import objects
from oslo_log import log as logging

from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import native

LOG = logging.getLogger(__name__)


def in_step(backend: Backend, volume: objects.Volume,
            operations: Operations) -> None:
    """Let Cinder's records say what has become of the chain."""
    state = native(operations.state)
    backend.note(volume, state)
    point(backend, volume, state)


def point(backend: Backend, volume: objects.Volume,
          state: VolumeState) -> None:
    """Let every attachment name the active layer and its format.

    Those that have no connection info yet get it when they connect.
    """
    active = state.chain.active
    wanted = {'name': active.name, 'format': str(active.format)}
    for attachment in objects.VolumeAttachmentList.get_all_by_volume_id(
            backend.context(), volume.id):
        said = dict(attachment.connection_info or {})
        if not said or wanted.items() <= said.items():
            continue
        LOG.info('Attachment %s of volume %s: the active file is %s (%s) '
                 'now.', attachment.id, volume.id, active.name,
                 active.format)
        attachment.connection_info = {**said, **wanted}
        attachment.save()
