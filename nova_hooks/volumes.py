# SPDX-License-Identifier: Apache-2.0
"""Nova's and Cinder's records of a volume, in Nova's own name.

Reports outlive the request that caused them, so the service's credentials
are used (sections ``[cinder]`` and ``[service_user]`` of nova.conf), never a
request's token.
"""

from __future__ import annotations

import logging
from typing import Any

from cinderclient import exceptions as cinder_errors
from nova import context as nova_context
from nova import exception
from nova import objects
from nova.virt import block_device
from nova.volume import cinder
from oslo_serialization import jsonutils

from assisted_snapshots.nova_hooks.errors import NoCredentials
from assisted_snapshots.nova_hooks.mapping import repoint

LOG = logging.getLogger(__name__)


def check_credentials(conf: Any) -> None:
    """See that Nova has credentials of its own for Cinder.

    :raises NoCredentials: it has none.
    """
    if not conf.cinder.auth_type and not conf.cinder.auth_section:
        raise NoCredentials


def point(volume_id: str, name: str, form: str) -> bool:
    """Write the active layer into Nova's block-device mapping.

    A guest that Nova starts later starts on this layer.

    :param name: bare file name of the active layer.
    :param form: ``qcow2`` or ``raw``; empty leaves it as it is.
    :returns: whether anything had to change.
    """
    try:
        mapping = objects.BlockDeviceMapping.get_by_volume(
            nova_context.get_admin_context(), volume_id)
    except exception.VolumeBDMNotFound:
        LOG.info('Volume %s is no longer attached', volume_id)
        return False
    except exception.VolumeBDMIsMultiAttach:
        LOG.error('Volume %s is attached to several instances now, their '
                  'mappings are left alone', volume_id)
        return False
    info = jsonutils.loads(mapping.connection_info or 'null')
    if not info or not repoint(info, name, form):
        return False
    mapping.connection_info = jsonutils.dumps(info)
    mapping.save()
    LOG.info('Volume %s is mapped to %s (%s) now', volume_id, name, form)
    return True


def mappings(instance_id: str) -> list[Any]:
    """Return Nova's mappings of a server's volumes, as its drivers do."""
    return list(block_device.convert_all_volumes(
        *objects.BlockDeviceMappingList.get_by_instance_uuid(
            nova_context.get_admin_context(), instance_id)))


def tell_cinder(snapshot_id: str, status: str, progress: str) -> None:
    """Update a snapshot's status; anything but an answer is raised.

    Cinder refuses an update of a snapshot that nobody waits for any more:
    that is an answer, and there is nothing left to tell.
    """
    client = cinder.cinderclient(nova_context.get_admin_context())
    try:
        client.volume_snapshots.update_snapshot_status(
            snapshot_id, {'status': status, 'progress': progress})
    except (cinder_errors.NotFound, cinder_errors.BadRequest) as exc:
        LOG.warning('Cinder does not take %s %s for snapshot %s: %s',
                    status, progress, snapshot_id, exc)
