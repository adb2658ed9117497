# SPDX-License-Identifier: Apache-2.0
"""The agent without its shell: accepts requests, answers questions.

What the RPC endpoint calls.  Every method may be called from any thread and
raises errors of :mod:`assisted_snapshots.rpcapi.errors` only.  It never
waits for the work itself: accepting means checking and journaling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import importlib.metadata
import logging
import os
import signal
import threading
import time

from assisted_snapshots.agent import preflight
from assisted_snapshots.agent.accept import Acceptor
from assisted_snapshots.agent.board import Board
from assisted_snapshots.agent.connection import Event
from assisted_snapshots.agent.connection import text_version
from assisted_snapshots.agent.engine import Engine
from assisted_snapshots.agent.growth import Growth
from assisted_snapshots.agent.hypervisor import Hypervisor
from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.quiesce import Guard
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.settings import AgentSettings
from assisted_snapshots.agent.settings import MUTABLE
from assisted_snapshots.agent.tools import Tools
from assisted_snapshots.agent.xml import SHUT_OFF
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi.messages import AgentInfo
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Extended
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import LiveChain
from assisted_snapshots.rpcapi.messages import LiveLayer
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import State

LOG = logging.getLogger(__name__)

# Seconds that a snapshot under way has to end when the agent is stopped.
_STOP = 10.0
_FORGET_EVERY = 3600.0


class Agent:
    """One compute host's agent.

    :ivar journal: its memory; the shell takes the reports out of it.
    """

    def __init__(self, settings: AgentSettings, host: str) -> None:
        self.host = host
        self.settings = settings
        self.journal = Journal(settings.state_dir)
        if settings.crash_at:
            self.journal.observer = _crash_after(settings.crash_at)
        self._stopping = threading.Event()
        self._hypervisor = Hypervisor(settings.libvirt_uri, self._on_event)
        self._guard = Guard(settings.libvirt_uri)
        self._board = Board(self.journal)
        tools = Tools(self._board, self._hypervisor, self._guard,
                      lambda: self.settings, self._stopping)
        self._engine = Engine(tools)
        self._acceptor = Acceptor(tools, host)
        self._growth = Growth(tools.hypervisor, self._acceptor,
                              self.journal.observer)
        self._janitor = threading.Thread(target=self._forget, name='janitor',
                                         daemon=True)

    def _on_event(self, event: Event | None) -> None:
        self._engine.on_event(event)

    # Life ---------------------------------------------------------------

    def start(self) -> None:
        """Begin to work; takes up what an earlier process left.

        Returns at once, also while libvirtd cannot be reached.
        """
        self._engine.start()
        self._hypervisor.start()
        self._janitor.start()

    def stop(self) -> None:
        """Stop working; block jobs go on in QEMU.  The last call."""
        self._engine.stop(_STOP)
        self._board.close()
        self._guard.stop()
        self._hypervisor.close()
        self.journal.close()

    def reconfigure(self, settings: AgentSettings) -> None:
        """Take over the mutable settings; the others are left as is."""
        self.settings = replace(
            self.settings, **{n: getattr(settings, n) for n in MUTABLE})
        for task in self._board.tasks():
            self._engine.wake(task.record.id)

    def _forget(self) -> None:
        """Drop old jobs from the journal now and then."""
        while not self._stopping.is_set():
            self.journal.forget(time.time() - self.settings.job_retention)
            self._stopping.wait(_FORGET_EVERY)

    # Questions ----------------------------------------------------------

    def info(self) -> AgentInfo:
        """Say who this is and whether it can work."""
        there = self._hypervisor.connected
        return AgentInfo(
            host=self.host, version=_version(), rpc_version=target.VERSION,
            libvirt=(text_version(self._hypervisor.libvirt_version)
                     if there else ''),
            qemu=(text_version(self._hypervisor.qemu_version)
                  if there else ''),
            problem=self._hypervisor.problem(),
            unfinished=len(self._board.tasks()))

    def job(self, job_id: str) -> Job:
        """Return a job as it stands."""
        return self._told(self._found(self._board.record(job_id), job_id))

    def jobs(self, volume_id: str | None = None, unfinished: bool = False,
             ) -> tuple[Job, ...]:
        """Return jobs, oldest first."""
        records = ([t.record for t in self._board.tasks()] if unfinished
                   else self._board.records())
        return tuple(self._told(r) for r in records
                     if volume_id is None or volume_id in r.volumes)

    def wait(self, job_id: str, revision: int, seconds: float) -> Job:
        """Return a job when it has changed since a revision, or ended.

        Also returns, unchanged, when the seconds are over.
        """
        record = self._board.wait(job_id, revision, seconds)
        return self._told(self._found(record, job_id))

    def chain(self, volume_id: str) -> LiveChain:
        """Return the chain of an attached volume as it is now."""
        self._hypervisor.expect()
        domain, disk = preflight.locate(self._hypervisor, self.host,
                                        volume_id)
        preflight.check_disk(domain, disk)
        remedy = preflight.can_commit(self._hypervisor.libvirt_version,
                                      domain)
        at_work = next((t.record.id for t in self._board.tasks()
                        if volume_id in t.record.volumes), '')
        return LiveChain(
            volume_id=volume_id, domain=domain.name, device=disk.device,
            running=bool(domain.id), can_commit=not remedy, remedy=remedy,
            job_id=at_work, layers=tuple(
                LiveLayer(n.name, n.format)
                for n in preflight.layers(domain, disk)))

    def _told(self, record: Record) -> Job:
        """Return a record as others see it.

        A change and the report of it are written in one: whoever sees a job
        ended, and not unreported, knows that its end has been reported.
        """
        return record.message(
            unreported=self.journal.unreported(record.id))

    def _found(self, record: Record | None, job_id: str) -> Record:
        if record is None:
            raise errors.JobNotFound(job_id=job_id, host=self.host)
        return record

    # Requests -----------------------------------------------------------

    def submit_create(self, request: CreateRequest) -> Job:
        """Accept a snapshot of one or several disks of a guest."""
        self._hypervisor.expect()
        return self._submitted(self._acceptor.create(request))

    def submit_merge(self, request: MergeRequest) -> Job:
        """Accept a merge of layers, exactly as planned."""
        self._hypervisor.expect()
        return self._submitted(self._acceptor.merge(request))

    def extend(self, volume_id: str, size: int) -> Extended:
        """Let an attached volume grow; returns when the guest sees it."""
        self._hypervisor.expect()
        return self._growth.extend(volume_id, size)

    def _submitted(self, record: Record) -> Job:
        if not record.state.final:
            self._engine.wake(record.id)
        return self._told(record)

    def set_bandwidth(self, job_id: str, bandwidth: int) -> Job:
        """Limit a merge to bytes per second; 0 lifts the limit."""
        return self._change(job_id, _steerable, bandwidth=bandwidth)

    def pause(self, job_id: str) -> Job:
        """Hold a merge (as slow as QEMU can); it will not pivot."""
        return self._change(job_id, _steerable, paused=True, note='paused')

    def resume(self, job_id: str) -> Job:
        """Let a paused merge go on."""
        return self._change(job_id, _steerable, paused=False, note='resumed')

    def abort(self, job_id: str) -> Job:
        """Ask a job to give up; the chain stays as it was."""
        record = self._found(self._board.record(job_id), job_id)
        if record.state is State.ABORTED:
            return self._told(record)
        return self._change(job_id, _abortable, aborting=True,
                            note='is being aborted')

    def _change(self, job_id: str, check: Callable[[Record], None],
                **changes: object) -> Job:
        check(self._found(self._board.record(job_id), job_id))
        try:
            record = self._board.amend_if(job_id, check, **changes)
        except KeyError:  # it has ended in between
            record = self._found(self._board.record(job_id), job_id)
            check(record)
        self._engine.wake(job_id)
        return self._told(record)


def _refuse(record: Record, reason: str) -> None:
    raise errors.JobState(job_id=record.id, state=record.state,
                          reason=reason)


def _steerable(record: Record) -> None:
    """Refuse to steer a job that cannot be steered (any more)."""
    if record.kind is Kind.CREATE:
        _refuse(record, 'a snapshot takes no time to speak of')
    if record.state not in (State.ACCEPTED, State.RUNNING):
        _refuse(record, 'it is too late for that')
    if record.state is State.RUNNING and record.incarnation == SHUT_OFF:
        _refuse(record, 'the guest is shut off and qemu-img is at work')


def _abortable(record: Record) -> None:
    """Refuse to abort a job that will end on its own at once."""
    if record.kind is Kind.CREATE and record.state is not State.ACCEPTED:
        _refuse(record, 'a snapshot takes no time to speak of')
    # A pivot that does not come about can be given up: if it has happened
    # nevertheless, the live chain tells, and the job ends as done.
    hangs = (record.state is State.PIVOTING
             and record.condition is Condition.STALLED)
    if record.kind is not Kind.CREATE and not hangs:
        _steerable(record)


def _version() -> str:
    try:
        return importlib.metadata.version('assisted-snapshots')
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def _crash_after(writes: int) -> Callable[[str], None]:
    """Return an observer that ends this process as a crash would."""
    left = [writes]

    def observe(step: str) -> None:
        left[0] -= 1
        if not left[0]:
            LOG.warning('crash_at: SIGKILL after "%s"', step)
            os.kill(os.getpid(), signal.SIGKILL)

    return observe
