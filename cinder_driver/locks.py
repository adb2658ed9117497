# SPDX-License-Identifier: Apache-2.0
"""One lock per volume, by Cinder's coordination.

Everything that reads or writes a chain holds it, on every host of a
cluster.  It has the name that upstream's driver uses, so that both may run
side by side.  It is not reentrant: a function that takes it must never be
called by one that holds it.  The lock file of the chain room is held
besides, for the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import ExitStack

from cinder import coordination


@contextmanager
def locked(prefix: str, *volume_ids: str) -> Iterator[None]:
    """Hold the locks of volumes, taken in the given order.

    The order is source before target everywhere, so that nobody waits for
    one who waits for him.
    """
    with _held(f'{prefix}-{volume_id}' for volume_id in volume_ids):
        yield


@contextmanager
def deletion(*snapshot_ids: str) -> Iterator[None]:
    """Hold what Cinder's manager holds while it deletes single snapshots.

    It does not where it deletes those of a group.  Taken before the locks
    of volumes, as the manager does.
    """
    with _held(f'{snapshot_id}-delete_snapshot'
               for snapshot_id in sorted(snapshot_ids)):
        yield


@contextmanager
def _held(names: Iterable[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for name in dict.fromkeys(names):
            stack.enter_context(coordination.COORDINATOR.get_lock(name))
        yield


def remove(prefix: str, volume_id: str) -> None:
    """Remove what the lock of a deleted volume has left on this host."""
    coordination.synchronized_remove(f'{prefix}-{volume_id}')
