# SPDX-License-Identifier: Apache-2.0
"""Looks at a job's guest: what libvirt and the headers say right now.

Reads only.  The order of the looks matters: libvirt rewrites the chain
before it tells that a block job has ended, so the chain is read last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
import time

from assisted_snapshots.agent import preflight
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.decide import Observation
from assisted_snapshots.agent.decide import Presence
from assisted_snapshots.agent.hypervisor import BlockJob
from assisted_snapshots.agent.hypervisor import Hypervisor
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.xml import Disk
from assisted_snapshots.agent.xml import DiskLayer
from assisted_snapshots.agent.xml import Domain
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import State


@dataclass(frozen=True, slots=True)
class Sight:
    """An observation, with what is needed to act on it.

    :ivar disks: volume id -> disk, of the volumes that are attached.
    :ivar layers: volume id -> its layers, base first.
    :ivar job: the block job on the disk.
    """

    seen: Observation
    domain: Domain | None = None
    disks: Mapping[str, Disk] = field(default_factory=dict)
    layers: Mapping[str, tuple[DiskLayer, ...]] = field(default_factory=dict)
    job: BlockJob | None = None


class Observer:
    """Looks at guests on behalf of jobs."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor

    def look(self, task: Task, turn: bool) -> Sight:
        """Observe a job's guest.

        :param turn: one more merge may run.
        :raises AgentError: it cannot be seen now.
        """
        record = task.record
        verdict = task.verdict
        domain = self._hypervisor.domain(record.uuid)
        disks = _disks(record, domain)
        job = self._job(domain, disks)
        if domain is not None and domain.id and job is None:
            domain = self._hypervisor.domain(record.uuid)
            disks = _disks(record, domain)
        layers, unread = _layers(domain, disks)
        chains = {v: tuple(n.name for n in found)
                  for v, found in layers.items()}
        mirror = next((d.mirror for d in disks.values() if d.mirror), None)
        presence = _presence(domain)
        complete = (presence is Presence.ACTIVE and len(disks) == len(
            record.volumes))
        expected = complete and (job is not None
                                 or record.state is State.ACCEPTED)
        seen = Observation(
            presence=presence, incarnation=domain.id if domain else 0,
            chains=chains, job=job.method if job else '',
            ready=bool(mirror and mirror.ready == 'yes'), verdict=verdict,
            missing=_missing(task, expected), turn=turn,
            age=time.time() - record.created, canceling=task.canceling,
            unread=unread)
        return Sight(seen, domain, disks, layers, job)

    def _job(self, domain: Domain | None,
             disks: Mapping[str, Disk]) -> BlockJob | None:
        """Return the first block job on the disks of a guest."""
        if domain is None or not domain.id:
            return None
        for disk in disks.values():
            try:
                job = self._hypervisor.job(domain.uuid, disk.device)
            except errors.GuestState:
                return None  # it has just ended; the next look shows
            if job is not None:
                return job
        return None


def _disks(record: Record, domain: Domain | None) -> dict[str, Disk]:
    """Return the job's volumes that are attached as they were."""
    if domain is None:
        return {}
    found = {v: domain.by_serial(v) for v in record.volumes}
    return {v: disks[0] for v, disks in found.items()
            if len(disks) == 1 and disks[0].folder == record.folders[v]}


def _layers(domain: Domain | None, disks: Mapping[str, Disk],
            ) -> tuple[dict[str, tuple[DiskLayer, ...]],
                       errors.NotSupported | None]:
    """Return the layers of each disk, or why they cannot be told."""
    if domain is None:
        return {}, None
    try:
        return {v: preflight.layers(domain, disk)
                for v, disk in disks.items()}, None
    except errors.NotSupported as e:
        return {}, e


def _presence(domain: Domain | None) -> Presence:
    if domain is None:
        return Presence.GONE
    return Presence.ACTIVE if domain.id else Presence.OFF


def _missing(task: Task, expected: bool) -> float:
    """Return for how long what is expected has not been there."""
    now = time.monotonic()
    if expected:
        task.missing_since = None
        return 0.0
    if task.missing_since is None:
        task.missing_since = now
    return now - task.missing_since
