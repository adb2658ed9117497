# SPDX-License-Identifier: Apache-2.0
"""What the journal knows of a job, as one immutable value.

A record says what was *intended* and how far that had got; what *is* comes
from libvirt and the headers on the share.  Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
import json
from typing import Any

from assisted_snapshots.rpcapi import messages
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import State

Chains = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Record:
    """A job, as journaled.

    :ivar request: the accepted request.
    :ivar uuid: libvirt UUID of the guest.
    :ivar domain: libvirt name of the guest.
    :ivar device: the disk, ``vda``; of several disks all of them.
    :ivar folders: volume id -> folder of its layers.
    :ivar before: volume id -> layers the job begins from.
    :ivar formats: format of the layers of a merge, as far as known.
    :ivar secret: UUID of the secret of an encrypted disk.
    :ivar method: ``snapshot`` or the block operation.
    :ivar incarnation: id of the QEMU process' domain in which the work was
        begun, 0 for a guest that was shut off, -1 for not begun.
    :ivar started: libvirt is known to have begun the work there.
    :ivar attempts: how often the work was begun.
    :ivar aborting: somebody asked to abort.
    :ivar frozen: the guest's file systems may be frozen by this job.
    :ivar suspended: the guest may be suspended by this job.
    :ivar left: of a merge that is done, removed layer -> size and time of
        the last change, as it was left for whoever unlinks it.
    """

    id: str
    request: CreateRequest | MergeRequest
    uuid: str
    domain: str
    device: str
    folders: Mapping[str, str]
    before: Chains
    formats: Mapping[str, str] = field(default_factory=dict)
    secret: str = ''
    state: State = State.ACCEPTED
    condition: Condition = Condition.OK
    method: str = ''
    incarnation: int = -1
    started: bool = False
    attempts: int = 0
    aborting: bool = False
    paused: bool = False
    frozen: bool = False
    suspended: bool = False
    left: Mapping[str, list[int]] = field(default_factory=dict)
    done_bytes: int = 0
    total_bytes: int = 0
    bandwidth: int = 0
    chains: Chains = field(default_factory=dict)
    consistency: str = ''
    note: str = ''
    error_code: str = ''
    error: str = ''
    revision: int = 0
    created: float = 0.0
    updated: float = 0.0

    @property
    def kind(self) -> Kind:
        """What the job does."""
        if isinstance(self.request, CreateRequest):
            return Kind.CREATE
        return self.request.kind

    @property
    def volumes(self) -> tuple[str, ...]:
        """Volume ids, as in the request."""
        if isinstance(self.request, CreateRequest):
            return tuple(d.volume_id for d in self.request.disks)
        return (self.request.volume_id,)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Snapshot ids; for a flatten the volume id."""
        if isinstance(self.request, CreateRequest):
            return tuple(d.snapshot_id for d in self.request.disks)
        return (self.request.subject,)

    @property
    def origin(self) -> str:
        """Who asked."""
        return self.request.origin

    @property
    def folder(self) -> str:
        """Folder of the (first) volume's layers."""
        return self.folders[self.volumes[0]]

    @property
    def operation(self) -> str:
        """The same for two requests that ask for the same thing."""
        pairs = sorted(zip(self.volumes, self.subjects, strict=True))
        return ' '.join([self.kind, *(f'{v}/{s}' for v, s in pairs)])

    @property
    def after(self) -> Chains:
        """Volume id -> layers when the job has succeeded."""
        if isinstance(self.request, MergeRequest):
            return {self.request.volume_id: self.request.after}
        return {d.volume_id: (*self.before[d.volume_id], d.new_file)
                for d in self.request.disks}

    def message(self, *, unreported: bool) -> messages.Job:
        """Return the job as others see it."""
        return messages.Job(unreported=unreported, **{
            name: getattr(self, name)
            for name in messages.Job.__dataclass_fields__
            if name != 'unreported'})


def dumps(record: Record) -> str:
    """Return a record as JSON text."""
    return json.dumps(asdict(record) | {'kind': record.kind})


def loads(text: str) -> Record:
    """Build a record from the text :func:`dumps` made."""
    w: dict[str, Any] = json.loads(text)
    kind = Kind(w.pop('kind'))
    request = (CreateRequest if kind is Kind.CREATE else MergeRequest)
    w['request'] = request.from_wire(w['request'])
    w['state'] = State(w['state'])
    w['condition'] = Condition(w['condition'])
    for name in ('before', 'chains'):
        w[name] = {v: tuple(layers) for v, layers in w[name].items()}
    return Record(**w)
