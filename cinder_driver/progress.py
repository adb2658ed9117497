# SPDX-License-Identifier: Apache-2.0
"""How far an operation is, in the snapshot's ``progress``.

Only a picture for people: nothing may ever be decided by it.  It is
written at most once a second and only when a percent has passed, and a row
that is gone meanwhile is no error.
"""

from __future__ import annotations

from collections.abc import Callable
import time

from cinder import context as cinder_context
from cinder import exception
from cinder import objects
from cinder.db import api as db

from assisted_snapshots.cinder_driver.native import home
from assisted_snapshots.rpcapi.messages import Job

# Seconds between two writes.
_RARELY = 1.0

#: The end is for the manager to tell.
_MOST = 99


class SnapshotProgress:
    """Writes progress into one snapshot's row; any thread may call it."""

    def __init__(self, context: cinder_context.RequestContext,
                 snapshot: objects.Snapshot,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._id = snapshot.id
        self._clock = clock
        self._told = -1
        self._when = clock() - _RARELY

    def job(self, job: Job) -> None:
        """Tell how far an agent's job is."""
        if job.total_bytes:
            self.percent(100 * job.done_bytes / job.total_bytes)

    def percent(self, value: float) -> None:
        """Tell how far a copy is."""
        now = self._clock()
        whole = max(0, min(_MOST, int(value)))
        if whole == self._told or now - self._when < _RARELY:
            return
        self._told, self._when = whole, now
        home(self._write, f'{whole}%')

    def _write(self, progress: str) -> None:
        try:
            db.snapshot_update(self._context, self._id,
                               {'progress': progress})
        except exception.SnapshotNotFound:
            return
