# SPDX-License-Identifier: Apache-2.0
"""Whose work a row is: this service's, a living peer's, or nobody's.

Cinder notes in its ``workers`` table which service has taken a request.
What is noted for a service that is down, or for this one before it was
started, nobody works on.  This module must never call a peer dead that has
reported within ``service_down_time``.
"""

from __future__ import annotations

import datetime
from typing import Any

from cinder import coordination
from cinder import exception
from cinder import objects
from cinder import service
from cinder import utils
from cinder.db import api as db
from cinder.volume import rpcapi
from cinder.volume import volume_utils
from oslo_log import log as logging
from oslo_utils import timeutils

from assisted_snapshots.cinder_driver.backend import Backend

LOG = logging.getLogger(__name__)

# Statuses of volumes that Cinder's cleanup ends, and the lock that a
# manager holds meanwhile.
_ABANDONED = {'creating': '{prefix}-{id}', 'deleting': '{id}-delete_volume'}


class Peers:
    """The services that work on this backend: this one and its cluster's."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._begun = timeutils.utcnow()
        self._claimed: set[str] = set()

    def owns(self, volume: Any) -> bool:
        """Tell whether a volume is of this backend."""
        mine = self._backend.driver.cluster_name or self._backend.host
        theirs = volume.service_topic_queue
        return bool(theirs and mine == volume_utils.extract_host(theirs))

    def claim(self) -> None:
        """Take over the snapshots that an earlier run was creating.

        Else Cinder's manager calls them failed, whatever has become of
        them, before anybody has looked.
        """
        mine = service.Service.service_id
        if mine is None:
            return
        context = self._backend.context()
        for worker in db.worker_get_all(context, service_id=mine,
                                        resource_type='Snapshot',
                                        status='creating'):
            self._claimed.add(worker.resource_id)
            db.worker_destroy(context, id=worker.id)

    def abandoned(self, snapshot: Any) -> bool:
        """Tell whether nobody will end the creation of a snapshot."""
        if snapshot.id in self._claimed:
            return True
        try:
            worker = db.worker_get(self._backend.context(),
                                   resource_type='Snapshot',
                                   resource_id=snapshot.id)
        except exception.WorkerNotFound:
            return old(snapshot)
        return worker.service_id is not None and self._dead(worker)

    def forget(self, snapshot: Any) -> None:
        """Drop the note of who was creating a snapshot."""
        self._claimed.discard(snapshot.id)
        db.worker_destroy(self._backend.context(), resource_type='Snapshot',
                          resource_id=snapshot.id, status='creating')

    def clean(self) -> list[str]:
        """Have the volumes of dead peers cleaned up, as Cinder does it.

        That makes ``creating`` an error and ends a ``deleting``.  An
        operator would ask for the same.
        """
        cluster = self._backend.driver.cluster_name
        if not cluster:
            return []  # this service does it when it starts
        context = self._backend.context()
        told = []
        for peer in objects.ServiceList.get_all(context, {
                'cluster_name': cluster, 'binary': 'cinder-volume'}):
            if peer.is_up or peer.id == service.Service.service_id:
                continue
            for worker in db.worker_get_all(context, service_id=peer.id,
                                            resource_type='Volume'):
                if self._free(worker):
                    self._cleanup(context, peer, worker.resource_id)
                    told.append(f'cleanup of volume {worker.resource_id}, '
                                f'which {peer.host} left {worker.status}')
        return told

    def _cleanup(self, context: Any, peer: Any, volume_id: str) -> None:
        request = objects.CleanupRequest(
            context, service_id=peer.id, cluster_name=peer.cluster_name,
            host=peer.host, binary=peer.binary, resource_type='Volume',
            resource_id=volume_id,
            until=timeutils.utcnow(with_timezone=True))
        rpcapi.VolumeAPI().do_cleanup(context, request)

    def _free(self, worker: Any) -> bool:
        """Tell whether nobody holds the lock of an abandoned volume."""
        template = _ABANDONED.get(worker.status)
        return template is not None and free(template.format(
            prefix=self._backend.prefix, id=worker.resource_id))

    def _dead(self, worker: Any) -> bool:
        """Tell whether the service that took a request is no more."""
        if worker.service_id == service.Service.service_id:
            return bool(worker.updated_at < self._begun)
        try:
            found = objects.Service.get_by_id(self._backend.context(),
                                              worker.service_id)
        except exception.ServiceNotFound:
            return True
        return not found.is_up


def free(name: str) -> bool:
    """Tell whether nobody holds a lock."""
    lock = coordination.COORDINATOR.get_lock(name)
    if not lock.acquire(blocking=False):
        return False
    lock.release()
    return True


def old(row: Any) -> bool:
    """Tell whether a row has been as it is for longer than a queue lasts."""
    changed = row.updated_at or row.created_at
    limit: datetime.datetime = utils.service_expired_time(True)
    return bool(changed < limit)
