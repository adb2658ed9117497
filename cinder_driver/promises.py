# SPDX-License-Identifier: Apache-2.0
"""What a snapshot's row promises while its deletion is finished unasked.

A deletion that could not go on leaves the snapshot ``available`` and the
chain in mid-operation.  Whoever touches the volume next finishes it, and
then nothing is left of the snapshot.  So before that the row is called
``deleting``: recovery finds it by that, over every crash, and has row and
quota removed.  This module must never look at, or change, a layer.
"""

from __future__ import annotations

from contextlib import suppress

from cinder import exception
from cinder import objects
from cinder.context import RequestContext
from cinder.objects import fields

from assisted_snapshots.chain.store import Operation

_Status = fields.SnapshotStatus


def ending(context: RequestContext, operation: Operation | None) -> None:
    """Let a row say that the deletion of its snapshot is being finished.

    :param operation: in flight; any other than a deletion is no matter.
    """
    if operation is None or operation.kind != 'delete':
        return
    with suppress(exception.SnapshotNotFound):
        objects.Snapshot.get_by_id(
            context, operation.subject).conditional_update(
                {'status': _Status.DELETING},
                {'status': (_Status.AVAILABLE, _Status.ERROR_DELETING)})
