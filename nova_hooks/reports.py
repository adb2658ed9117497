# SPDX-License-Identifier: Apache-2.0
"""What becomes of a report of the agent.

First the block-device mapping, then Cinder: as soon as Cinder knows that a
guest has moved it may remove a layer, and no guest may be started on a layer
that is gone or that has an overlay.  A report comes again until all of that
has succeeded, so every step can be repeated.

=========================  ==============================================
killed                     then
=========================  ==============================================
before the mapping         the report comes again; meanwhile the guard on
                           the start path follows libvirt's definition
after the mapping          the report comes again; the mapping is as wanted
after Cinder was told      the report comes again; Cinder refuses or
                           repeats a status it has
=========================  ==============================================
"""

from __future__ import annotations

import logging
from typing import Protocol

from assisted_snapshots.nova_hooks.requests import ORIGIN
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import State

LOG = logging.getLogger(__name__)

#: What Cinder waits for beside the status.
DONE = '90%'
_MOST = 89

_GOOD = {Kind.CREATE: 'creating', Kind.DELETE: 'deleting'}
_BAD = {Kind.CREATE: 'error', Kind.DELETE: 'error_deleting'}


class Records(Protocol):
    """Where it is written down: :mod:`.volumes`."""

    def point(self, volume_id: str, name: str, form: str) -> bool:
        """Write the active layer into the block-device mapping."""

    def tell_cinder(self, snapshot_id: str, status: str,
                    progress: str) -> None:
        """Update a snapshot's status."""


class Reports:
    """Takes the reports of one host's agent."""

    def __init__(self, agent: AgentClient, records: Records) -> None:
        self._agent = agent
        self._records = records

    def take(self, job: Job) -> None:
        """Take one report; it is acknowledged when this returns."""
        if not job.state.final:
            return
        for volume_id in job.volumes:
            self._point(volume_id, job)
        if job.origin == ORIGIN:
            self._tell(job)

    def progress(self, job: Job) -> None:
        """Tell Cinder how far an unfinished job is."""
        if job.origin != ORIGIN or job.state.final or not job.total_bytes:
            return
        percent = min(_MOST, 100 * job.done_bytes // job.total_bytes)
        for snapshot_id in job.subjects:
            self._records.tell_cinder(snapshot_id, _GOOD[job.kind],
                                      f'{percent}%')

    def _point(self, volume_id: str, job: Job) -> None:
        try:
            layers = self._agent.get_chain(volume_id).layers
        except errors.VolumeNotFound:
            # The guest is gone.  What was observed last is still true of
            # the files; an overlay is always qcow2.
            names = job.chains.get(volume_id, ())
            if len(names) > 1:
                self._records.point(volume_id, names[-1], 'qcow2')
            return
        self._records.point(volume_id, layers[-1].name, layers[-1].format)

    def _tell(self, job: Job) -> None:
        if job.kind not in _GOOD:
            return
        status = (_GOOD if job.state is State.DONE else _BAD)[job.kind]
        if job.state is not State.DONE:
            LOG.error('Job %s of snapshot %s: %s', job.id,
                      ' '.join(job.subjects), job.error or job.note)
        for snapshot_id in job.subjects:
            self._records.tell_cinder(snapshot_id, status, DONE)
