# SPDX-License-Identifier: Apache-2.0
"""Accepting requests: refuse, recognise, or journal.

A request is bound to the layers it was planned on.  The same request again
is the same job; a request whose outcome is there already is a job with
nothing left to do; the same operation for other layers is refused.  It must
answer in milliseconds: one look at the guest, the headers, one journal
write.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
import threading
import uuid

from assisted_snapshots.agent import files
from assisted_snapshots.agent import preflight
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.tools import method
from assisted_snapshots.agent.tools import Tools
from assisted_snapshots.agent.xml import Disk
from assisted_snapshots.agent.xml import DiskLayer
from assisted_snapshots.agent.xml import Domain
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State

_Place = tuple[Domain, Disk, tuple[DiskLayer, ...]]


def _names(layers: tuple[DiskLayer, ...]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers)


def _layers_of(record: Record) -> object:
    """Return what binds a request to its layers."""
    if isinstance(record.request, CreateRequest):
        return sorted((d.volume_id, d.new_file)
                      for d in record.request.disks)
    return (record.request.before, record.request.merged,
            record.request.survivor)


class Acceptor:
    """Turns requests into journaled jobs, one at a time."""

    def __init__(self, tools: Tools, host: str) -> None:
        self._board = tools.board
        self._hypervisor = tools.hypervisor
        self._settings = tools.settings
        self._host = host
        self._lock = threading.Lock()
        self._reserved: set[str] = set()

    def create(self, request: CreateRequest) -> Record:
        """Accept a snapshot, or return the job it already is."""
        draft = _draft(request)
        with self._lock:
            earlier = self._earlier(draft)
            if earlier is not None and not earlier.state.final:
                return earlier
            try:
                places = {d.volume_id: self.place(d.volume_id)
                          for d in request.disks}
            except errors.VolumeNotFound:
                if earlier is not None and files.written_to(earlier):
                    return earlier
                raise
            if earlier is not None and all(
                    d.new_file in _names(places[d.volume_id][2])
                    for d in request.disks):
                return earlier
            return self._new_create(draft, request, places)

    def _new_create(self, draft: Record, request: CreateRequest,
                    places: dict[str, _Place]) -> Record:
        domain = places[request.disks[0].volume_id][0]
        if any(place[0].uuid != domain.uuid for place in places.values()):
            raise errors.InvalidRequest(
                field='disks', reason='belong to different guests')
        before = {}
        for wanted in request.disks:
            self._refuse_busy(domain, places[wanted.volume_id][1],
                              wanted.volume_id)
            before[wanted.volume_id] = self._before(
                wanted, *places[wanted.volume_id])
        devices = ' '.join(place[1].device for place in places.values())
        return self._board.add(replace(
            draft, uuid=domain.uuid, domain=domain.name, device=devices,
            folders={v: p[1].folder for v, p in places.items()},
            before=before, method='snapshot',
            chains={v: _names(p[2]) for v, p in places.items()})).record

    def _before(self, wanted: SnapshotDisk, domain: Domain, disk: Disk,
                layers: tuple[DiskLayer, ...]) -> tuple[str, ...]:
        """Return the chain to begin from; check that one can."""
        names = _names(layers)
        if names[-1] == wanted.new_file and len(names) > 1 \
                and names[-1].endswith(f'.{wanted.snapshot_id}'):
            return names[:-1]  # this very snapshot has been taken already
        most = self._settings().max_layers
        if len(names) >= most:
            raise errors.TooManyLayers(volume_id=wanted.volume_id,
                                       found=len(names), most=most)
        preflight.check_idle(self._hypervisor, domain, disk)
        preflight.check_overlay(disk, layers, wanted.new_file)
        return names

    def merge(self, request: MergeRequest) -> Record:
        """Accept a merge, or return the job it already is."""
        draft = _draft(request)
        with self._lock:
            earlier = self._earlier(draft)
            if earlier is not None and not earlier.state.final:
                return earlier
            try:
                place = self.place(request.volume_id)
            except errors.VolumeNotFound:
                # Who asks has to know whether the guest had been moved.
                told = self._same(draft)
                if told is None or told.state is State.DONE \
                        and not files.as_left(told):
                    raise
                return told
            if earlier is not None and _names(place[2]) != request.before:
                return earlier
            return self._new_merge(
                replace(draft, formats=self._known_formats(draft, request)),
                request, place)

    def _known_formats(self, draft: Record,
                       request: MergeRequest) -> dict[str, str]:
        """Return formats of layers that the guest may have left already.

        One that failed only to be made durable is proven again, for which
        they are needed.  Only a base is ever anything but qcow2.
        """
        if (found := self._same(draft)) is not None:
            return dict(found.formats)
        return dict.fromkeys(request.before[1:], 'qcow2')

    def _new_merge(self, draft: Record, request: MergeRequest,
                   place: _Place) -> Record:
        domain, disk, layers = place
        live = _names(layers)
        if live not in (request.before, request.after):
            raise errors.ChainMismatch(
                volume_id=request.volume_id, found=' <- '.join(live),
                expected=' <- '.join(request.before))
        self._refuse_busy(domain, disk, request.volume_id)
        if live == request.before:
            preflight.check_idle(self._hypervisor, domain, disk)
            remedy = preflight.can_commit(self._hypervisor.libvirt_version,
                                          domain)
            if request.down and remedy:
                raise errors.NotSupported(reason=remedy)
        return self._board.add(replace(
            draft, uuid=domain.uuid, domain=domain.name, device=disk.device,
            folders={request.volume_id: disk.folder},
            before={request.volume_id: request.before},
            chains={request.volume_id: live}, secret=disk.secret,
            formats={**draft.formats,
                     **{n.name: n.format for n in layers}},
            method=method(request), bandwidth=(
                request.bandwidth or self._settings().bandwidth))).record

    @contextmanager
    def reserved(self, volume_id: str) -> Iterator[tuple[Domain, Disk]]:
        """Accept no job of a volume meanwhile; yields where it is.

        :raises DiskBusy: it has a job, or is reserved already.
        """
        with self._lock:
            domain, disk, _ = self.place(volume_id)
            self._refuse_busy(domain, disk, volume_id)
            self._reserved.add(volume_id)
        try:
            yield domain, disk
        finally:
            with self._lock:
                self._reserved.discard(volume_id)

    def place(self, volume_id: str) -> _Place:
        """Return where a volume is that can be worked on."""
        domain, disk = preflight.locate(self._hypervisor, self._host,
                                        volume_id)
        preflight.check_disk(domain, disk)
        return domain, disk, preflight.layers(domain, disk)

    def _same(self, draft: Record) -> Record | None:
        """Return the last job of the same request, whatever became of it."""
        found = self._board.newest(draft.operation)
        same = found is not None and _layers_of(found) == _layers_of(draft)
        return found if same else None

    def _earlier(self, draft: Record) -> Record | None:
        """Return an unfinished or successful job of the same request.

        :raises JobConflict: the same operation is under way for others.
        """
        found = self._board.newest(draft.operation)
        if found is None:
            return None
        same = _layers_of(found) == _layers_of(draft)
        if not found.state.final and not same:
            raise errors.JobConflict(
                kind=draft.kind, subject=' '.join(draft.subjects),
                earlier=_layers_of(found), now=_layers_of(draft))
        wanted = same and (found.state is State.DONE
                           or not found.state.final)
        return found if wanted else None

    def _refuse_busy(self, domain: Domain, disk: Disk,
                     volume_id: str) -> None:
        if volume_id in self._reserved:
            raise errors.DiskBusy(domain=domain.name, device=disk.device,
                                  job='it is being extended')
        for task in self._board.tasks():
            if volume_id in task.record.volumes:
                raise errors.DiskBusy(
                    domain=domain.name, device=disk.device,
                    job=f'{task.record.kind} of '
                        f'{" ".join(task.record.subjects)}, '
                        f'{task.record.id}')


def _draft(request: CreateRequest | MergeRequest) -> Record:
    """Return a record that knows nothing but its request."""
    return Record(id=str(uuid.uuid4()), request=request, uuid='', domain='',
                  device='', folders={}, before={})
