# SPDX-License-Identifier: Apache-2.0
"""How much a share has, and how much of it is promised.

Free space is asked of the file system; what is promised is the sum that
Cinder's database grants on that share, snapshots included, because each of
them may come to hold as much as its volume.  A share must never be walked
for it: upstream's ``du`` takes minutes on a large one, for every request.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
import os
from typing import Any

from cinder import context as cinder_context
from cinder import objects
from cinder.db import api as db
from cinder.db import models
from oslo_utils import units
from sqlalchemy import func
from sqlalchemy import select

from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver.native import native


@dataclass(frozen=True, slots=True)
class Room:
    """The space of one share, in bytes."""

    total: int
    free: int
    promised: int

    def may_promise(self, ratio: float) -> int:
        """Return how much more may be promised on the share."""
        return max(0, int(self.total * ratio) - self.promised)


@db.main_context_manager.reader
def promised(context: cinder_context.RequestContext,
             shares: Iterable[str]) -> dict[str, int]:
    """Return share -> bytes that Cinder has granted on it."""
    volume, snapshot = models.Volume, models.Snapshot
    granted = [
        select(volume.provider_location, func.sum(volume.size))
        .where(~volume.deleted),
        select(volume.provider_location, func.sum(snapshot.volume_size))
        .join(snapshot, snapshot.volume_id == volume.id)
        .where(~volume.deleted, ~snapshot.deleted)]
    found = dict.fromkeys(shares, 0)
    for query in granted:
        rows = context.session.execute(
            query.where(volume.provider_location.in_(found))
            .group_by(volume.provider_location))
        for share, size in rows:
            found[share] += int(size or 0) * units.Gi
    return found


class Capacity:
    """The capacity methods of a RemoteFS driver, in place of upstream's.

    The driver's own ``_find_share`` and ``_is_share_eligible`` decide, on
    these numbers.
    """

    backend: Any
    shares: dict[str, str | None]
    _is_share_eligible: Callable[..., bool]
    _find_share: Callable[[objects.Volume], str]

    def room(self, share: str) -> Room:
        """Return the space of a mounted share."""
        found = native(os.statvfs, self.backend.share_folder(share))
        granted = promised(self.backend.context(), [share])
        return Room(found.f_blocks * found.f_frsize,
                    found.f_bavail * found.f_frsize, granted[share])

    def check_room(self, volume: objects.Volume, needed: int) -> None:
        """See that a volume may grow by so many bytes.

        :raises NoRoomToExtend: its share has promised too much already.
        """
        share = volume.provider_location
        room = self.room(share)
        if not self._is_share_eligible(share, -(-needed // units.Gi)):
            raise failures.NoRoomToExtend(
                volume=volume.id, share=share, needed=needed, free=room.free,
                promise=room.may_promise(self._ratio()))

    def share_for_copy(self, volume: objects.Volume, source: str) -> str:
        """Return the share of a copy: the source's if it has room.

        Only within one share can two volumes share their data.
        """
        if self._is_share_eligible(source, volume.size):
            return source
        return self._find_share(volume)

    def _ratio(self) -> float:
        return float(getattr(self, 'max_over_subscription_ratio', 1.0))

    def _get_capacity_info(self, share: str) -> tuple[int, int, int]:
        room = self.room(share)
        return room.total, room.free, room.promised

    def _get_provisioned_capacity(self) -> float:
        granted = promised(self.backend.context(), self.shares)
        total: float = sum(granted.values()) / units.Gi
        return round(total, 2)
