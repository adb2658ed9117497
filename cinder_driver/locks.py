# SPDX-License-Identifier: Apache-2.0
"""One lock per volume, by Cinder's coordination.

Everything that reads or writes a chain holds it, on every host of a
cluster.  It has the name that upstream's driver uses, so that both may run
side by side.  It is not reentrant: a function that takes it must never be
called by one that holds it.  The lock file of the chain room is held
besides, for the command line.
"""

from __future__ import annotations

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
    with ExitStack() as stack:
        for volume_id in dict.fromkeys(volume_ids):
            stack.enter_context(coordination.COORDINATOR.get_lock(
                f'{prefix}-{volume_id}'))
        yield


def remove(prefix: str, volume_id: str) -> None:
    """Remove what the lock of a deleted volume has left on this host."""
    coordination.synchronized_remove(f'{prefix}-{volume_id}')
