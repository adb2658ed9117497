# SPDX-License-Identifier: Apache-2.0
"""Why a snapshot could not be made or deleted, for its user to read.

It is one key of the snapshot's metadata, which is its user's own: this
module must never touch another key, nor write back what it has read, and
nothing may ever be decided by it.
"""

from __future__ import annotations

from contextlib import suppress

from cinder import context as cinder_context
from cinder import exception
from cinder import objects
from cinder.db import api as db

#: Key of the metadata.
KEY = 'assisted_snapshots:reason'

# Characters that a value can have.
_MOST = 255


def note(context: cinder_context.RequestContext, snapshot: objects.Snapshot,
         reason: str) -> None:
    """Write a reason down, if there is still somebody to read it."""
    with suppress(exception.SnapshotNotFound):
        snapshot.metadata = db.snapshot_metadata_update(
            context, snapshot.id, {KEY: reason[:_MOST]}, False)
        snapshot.obj_reset_changes(['metadata'])


def forget(context: cinder_context.RequestContext,
           snapshot: objects.Snapshot) -> None:
    """Take it back: what was given up has come about after all."""
    with suppress(exception.SnapshotNotFound):
        db.snapshot_metadata_delete(context, snapshot.id, KEY)
