# SPDX-License-Identifier: Apache-2.0
"""The port through which a running guest's disk is worked on.

Who calls :class:`~assisted_snapshots.chain.operations.Operations` supplies
it: the agent's RPC client, or Nova's REST API.  Only primitive types pass,
so that no other room needs to be imported.  This module must never do
anything itself.
"""

from __future__ import annotations

from typing import Protocol

#: ``code`` of a :class:`~assisted_snapshots.chain.errors.GuestFailed` that
#: says: the guest is gone, and it had not been moved off the chain it was
#: found on.  Only then may the work be done again on the files.
NOT_MOVED = 'guest-state'

#: The same for: there is a block job.  Asked again, it may be the very one
#: that was begun the first time, by an agent that has forgotten it.
BUSY = 'disk-busy'

#: The same for: the guest is defined, but off; an extension is done on the
#: file then.
SHUT_OFF = 'not-running'


class GuestSide(Protocol):
    """Works on the disks of running (or defined, shut-off) guests.

    ``create``, ``merge`` and ``extend`` are asked again with the same
    arguments after a crash of the caller: they must then tell the outcome of
    the first request, or carry it on, and never start on other layers.  What
    they raise is :class:`~assisted_snapshots.chain.errors.GuestFailed`, with
    the agent's ``code`` among its fields; anything else means that nobody
    knows.  :class:`~assisted_snapshots.chain.errors.GuestRefused` says that
    the work was not begun, nor will be: the intent is withdrawn, and the
    volume is as it was.

    A side may have ``keeps_active = True``: then the active file is the same
    after every merge, as upstream's protocol has it.
    """

    def chain(self, volume_id: str) -> tuple[str, ...] | None:
        """Return the live layers, base first; None if no guest has it."""

    def can_commit(self, volume_id: str) -> tuple[bool, str]:
        """Tell whether QEMU may write to a backing file; else the remedy."""

    def create(self, volume_id: str, snapshot_id: str, new_file: str,
               quiesce: str) -> str:
        """Move the guest onto a prepared overlay.

        :param quiesce: ``off``, ``try`` or ``require``.
        :returns: the snapshot's consistency, a label for people, once the
            guest writes to the overlay.
        """

    def merge(self, volume_id: str, subject: str, kind: str,
              before: tuple[str, ...], merged: tuple[str, ...],
              survivor: str) -> None:
        """Merge layers; returns when it is done and durable.

        :param subject: snapshot id; for a flatten the volume's id.
        :param kind: ``delete`` or ``flatten``.
        """

    def extend(self, volume_id: str, size: int) -> None:
        """Make the active layer larger; returns when the guest knows.

        :param size: in bytes.
        """
