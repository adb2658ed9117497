# SPDX-License-Identifier: Apache-2.0
"""Lets the disk of a running guest grow, and tells the guest.

libvirt's one call does both: QEMU makes the active layer larger, whatever its
format, and the guest gets a notice.  The layers below keep their size; what a
larger layer shows above their ends is zeroes, and a later merge makes the
survivor as large as the layer above it.

No journal is needed, because a request can simply be repeated:

=========================  ==============================================
killed                     then
=========================  ==============================================
before the call            the volume has its old size
in the call                libvirt has it and ends it, or never got it;
                           QEMU's resize is whole or not at all
after the call             the volume has its new size, the guest knows it,
                           and a repeat finds nothing left to do
=========================  ==============================================

Who asked knows from the layer's header, or a raw file's length, which it was.
This module must never make a disk smaller, which libvirt would do as readily.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
from pathlib import Path

from assisted_snapshots.agent import durability
from assisted_snapshots.agent import preflight
from assisted_snapshots.agent.accept import Acceptor
from assisted_snapshots.agent.hypervisor import Hypervisor
from assisted_snapshots.agent.xml import Disk
from assisted_snapshots.agent.xml import Domain
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Extended

LOG = logging.getLogger(__name__)


class Growth:
    """Extends volumes; any thread may use it.

    :param observer: called with a sentence before and after the change.
    """

    def __init__(self, hypervisor: Hypervisor, acceptor: Acceptor,
                 observer: Callable[[str], None] | None) -> None:
        self._hypervisor = hypervisor
        self._acceptor = acceptor
        self._step = observer or _ignore

    def extend(self, volume_id: str, size: int) -> Extended:
        """Make a volume as large as is asked for, if it is not.

        No job of the volume is accepted meanwhile.  Where nothing is left
        to do, a job is in nobody's way.

        :raises NotRunning: there is no QEMU; the file can be extended.
        :raises DiskBusy: a job runs; repeat the request when it has ended.
        :raises WouldShrink: it is larger.
        :raises OutcomeUnknown: libvirt went away; repeat the request.
        """
        domain, disk, _ = self._acceptor.place(volume_id)
        if not domain.id or self._missing(volume_id, domain, disk, size):
            with self._acceptor.reserved(volume_id) as (domain, disk):
                self._extend(volume_id, domain, disk, size)
        durability.sync(Path(disk.active.path))
        self._step(f'volume {volume_id}: answer')
        return Extended(volume_id, domain.name, disk.device, size)

    def _extend(self, volume_id: str, domain: Domain, disk: Disk,
                size: int) -> None:
        preflight.check_idle(self._hypervisor, domain, disk)
        if not domain.id:
            raise errors.NotRunning(domain=domain.name)
        missing = self._missing(volume_id, domain, disk, size)
        if missing:
            self._step(f'volume {volume_id}: resize')
            self._resize(domain, disk, size)
            LOG.info('volume %s: %s of %s has %d bytes now, %d more',
                     volume_id, disk.device, domain.name, size, missing)

    def _missing(self, volume_id: str, domain: Domain, disk: Disk,
                 size: int) -> int:
        """Return how many bytes a disk lacks."""
        found = self._hypervisor.capacity(domain.uuid, disk.device)
        if size < found:
            raise errors.WouldShrink(volume_id=volume_id, found=found,
                                     wanted=size)
        return size - found

    def _resize(self, domain: Domain, disk: Disk, size: int) -> None:
        try:
            self._hypervisor.resize(domain.uuid, disk.device, size)
        except errors.HypervisorDown as exc:
            raise errors.OutcomeUnknown(
                call='blockResize', device=disk.device, domain=domain.name,
                reason=str(exc)) from exc


def _ignore(_step: str) -> None:
    pass
