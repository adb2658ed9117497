# SPDX-License-Identifier: Apache-2.0
"""What a snapshot's row promises while its deletion is finished unasked.

A deletion that could not go on leaves the snapshot ``available`` and the
chain in mid-operation.  Whoever touches the volume next finishes it, and
then nothing is left of the snapshot.  So before that the row is called
``deleting``: recovery finds it by that, over every crash, and has row and
quota removed.  This module must never look at, or change, a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cinder import exception
from cinder import objects
from cinder.context import RequestContext
from cinder.objects import fields

from assisted_snapshots.chain.store import Operation

_Status = fields.SnapshotStatus


@contextmanager
def ending(context: RequestContext, operation: Operation | None
           ) -> Iterator[None]:
    """Let a row say that the deletion of its snapshot is being finished.

    If it cannot be finished now, the row is as it was: its user can repeat
    the deletion.

    :param operation: in flight; any other than a deletion is no matter.
    """
    before = _promise(context, operation)
    try:
        yield
    except Exception:
        if before and operation:
            _change(context, operation, before, (_Status.DELETING,))
        raise
    # The manager whose deletion it was may have had its say since.
    _promise(context, operation)


def _promise(context: RequestContext, operation: Operation | None) -> str:
    """Call the row ``deleting``; what it was, if that was another."""
    if operation is None or operation.kind != 'delete':
        return ''
    return next((status for status in (_Status.AVAILABLE,
                                       _Status.ERROR_DELETING)
                 if _change(context, operation, _Status.DELETING,
                            (status,))), '')


def _change(context: RequestContext, operation: Operation, status: str,
            expected: tuple[str, ...]) -> bool:
    """Change the row's status, unless it is another or gone."""
    try:
        row = objects.Snapshot.get_by_id(context, operation.subject)
    except exception.SnapshotNotFound:
        return False
    return bool(row.conditional_update({'status': status},
                                       {'status': expected}))
