# SPDX-License-Identifier: Apache-2.0
"""Carries out what was decided about a merge, one action at a time.

Each method journals what it is about to do, then does it.  It returns after
how many seconds to look again, 0 for at once.  It must never remove a file,
and never judge its own success: the next look does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging
from pathlib import Path
import threading
import time

from assisted_snapshots.agent import convergence
from assisted_snapshots.agent import durability
from assisted_snapshots.agent import files
from assisted_snapshots.agent import xml
from assisted_snapshots.agent.board import Board
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.decide import Action
from assisted_snapshots.agent.decide import Presence
from assisted_snapshots.agent.hypervisor import BlockJob
from assisted_snapshots.agent.hypervisor import Hypervisor
from assisted_snapshots.agent.observe import Sight
from assisted_snapshots.agent.quiesce import Guard
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.settings import AgentSettings
from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import State

LOG = logging.getLogger(__name__)

AT_ONCE = 0.0
SOON = 0.2
LATER = 3600.0
#: Not a time: the files are to be merged, in a thread of its own.
HAND_OVER = -1.0
#: What stands for "paused": libvirt cannot pause a block job.
CRAWL = 1


@dataclass(frozen=True, slots=True)
class Tools:
    """What actions work with.

    :ivar settings: returns the settings in force.
    :ivar stopping: set when the agent is being stopped.
    """

    board: Board
    hypervisor: Hypervisor
    guard: Guard
    settings: Callable[[], AgentSettings]
    stopping: threading.Event


def merge_request(record: Record) -> MergeRequest:
    """Return the request of a merge job."""
    if not isinstance(record.request, MergeRequest):
        raise TypeError(record.kind)
    return record.request


def method(request: MergeRequest) -> str:
    """Return QEMU's name of the block operation."""
    if not request.down:
        return 'pull'
    return 'active-commit' if request.includes_active else 'commit'


def fail(tools: Tools, task: Task, error: errors.AgentError,
         **changes: bool) -> float:
    """End a job as failed."""
    LOG.warning('job %s failed: %s', task.record.id, error)
    tools.board.amend(task.record.id, state=State.FAILED,
                      condition=Condition.OK, error_code=error.code,
                      error=str(error), note='', **changes)
    return AT_ONCE


class MergeActions:
    """The actions of a merge."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._board = tools.board
        self._hypervisor = tools.hypervisor

    def start(self, task: Task, sight: Sight) -> float:
        """Begin the block job."""
        record = self._board.amend(
            task.record.id, state=State.RUNNING, started=False,
            incarnation=sight.seen.incarnation, condition=Condition.OK,
            attempts=task.record.attempts + 1, note='begins')
        task.verdict = task.track = task.missing_since = None
        task.canceling = False
        try:
            self._call(record, sight)
        except errors.HypervisorDown:
            raise
        except errors.AgentError as e:
            domain = self._hypervisor.domain(record.uuid)
            if domain is None or domain.id != record.incarnation:
                return SOON
            return fail(self._tools, task, e)
        return self.adopt(task)

    def _call(self, record: Record, sight: Sight) -> None:
        request = merge_request(record)
        disk = sight.disks[request.volume_id]
        speed = CRAWL if record.paused else record.bandwidth
        if request.down:
            self._hypervisor.commit(
                record.uuid, disk.device, disk.address(request.merged[0]),
                disk.address(request.merged[-1]), speed)
            return
        at = request.before.index(request.merged[0])
        base = disk.address(request.before[at - 1]) if at else None
        self._hypervisor.pull(record.uuid, disk.device, base, speed)

    def adopt(self, task: Task) -> float:
        """Note that the block job exists."""
        self._board.amend(task.record.id, started=True, note='runs')
        return AT_ONCE

    def tend(self, task: Task, job: BlockJob) -> None:
        """Take the progress of a running block job and steer it."""
        record = task.record
        wanted = CRAWL if record.paused else record.bandwidth
        if job.bandwidth != wanted:
            self._hypervisor.set_speed(record.uuid, record.device, wanted)
        # libvirt says 0 of 1 while it knows nothing.
        if job.total > 1:
            self._board.remark(record.id, done_bytes=job.done,
                               total_bytes=job.total)
        if record.paused:
            task.track = None
            return
        task.track = convergence.follow(task.track, convergence.Sample(
            time.monotonic(), job.done, job.total))
        self._judge(task)

    def _judge(self, task: Task) -> None:
        if task.track is None:
            return
        record, settings = task.record, self._tools.settings()
        found = convergence.judge(task.track, settings.stall_window,
                                  settings.convergence_window)
        if found.condition is Condition.NOT_CONVERGING and record.bandwidth \
                and settings.raise_bandwidth:
            self._hypervisor.set_speed(record.uuid, record.device, 0)
            self._board.amend(record.id, bandwidth=0, note='its limit was '
                              f'lifted: {found.note}')
            task.track = None
        elif found.condition is not record.condition:
            self._board.amend(record.id, condition=found.condition,
                              note=found.note or 'runs')

    def pivot(self, task: Task) -> float:
        """Move the guest to the lower layer."""
        if task.record.state is not State.PIVOTING:
            self._board.amend(task.record.id, state=State.PIVOTING,
                              condition=Condition.OK, note='pivots')
        try:
            self._hypervisor.pivot(task.record.uuid, task.record.device)
        except errors.HypervisorDown:
            raise
        except errors.AgentError as e:
            self._board.remark(task.record.id, note=f'not pivoted yet: {e}')
            return self._tools.settings().poll_interval
        return AT_ONCE

    def cancel(self, task: Task) -> float:
        """Ask QEMU to give the block job up."""
        task.canceling = True
        try:
            self._hypervisor.cancel(task.record.uuid, task.record.device)
        except errors.HypervisorDown:
            task.canceling = False
            raise
        except errors.AgentError as e:
            LOG.info('job %s: %s', task.record.id, e)
        return SOON

    def flush(self, task: Task, sight: Sight) -> float:
        """Make the merged data durable, and end the job when that is seen."""
        record = task.record
        if record.state is not State.FLUSHING:
            record = self._board.amend(
                record.id, state=State.FLUSHING, condition=Condition.OK,
                chains=dict(sight.seen.chains), note='flushes')
        running = sight.seen.presence is Presence.ACTIVE
        try:
            missing = (self._flush_running(task, sight) if running
                       else self._prove_files(record))
        except errors.HypervisorDown:
            raise
        except (errors.AgentError, chain_errors.ChainError, OSError) as e:
            missing = str(e)
        if missing:
            return self._not_durable(task, sight, missing)
        self._board.amend(
            record.id, state=State.DONE, done_bytes=record.total_bytes,
            note=f'merged into {merge_request(record).survivor}, which is '
                 'on stable storage')
        return AT_ONCE

    def _flush_running(self, task: Task, sight: Sight) -> str:
        record, request = task.record, merge_request(task.record)
        survivor = next(n for n in sight.layers[request.volume_id]
                        if n.name == request.survivor)
        durability.flush(self._hypervisor, record.uuid, survivor,
                         lambda: self._pause_briefly(task))
        removed = [n for n in request.merged if n != request.survivor]
        formats = dict(record.formats)
        return durability.unproven(Path(record.folder), request.survivor,
                                   removed, formats)

    def _pause_briefly(self, task: Task) -> None:
        """Stop and continue the guest, and never forget the latter."""
        self._board.amend(task.record.id, suspended=True)
        self._hypervisor.pause_briefly(task.record.uuid)
        self._board.amend(task.record.id, suspended=False)

    def _prove_files(self, record: Record) -> str:
        """Prove a merge whose QEMU is gone; returns what is missing."""
        request = merge_request(record)
        if files.unlinked(record):
            durability.sync(Path(record.folder, request.survivor))
            return ''
        try:
            files.detached_merge(record, self._secret(record)).prove()
        except chain_errors.NotProven as e:
            return str(e)
        return ''

    def _secret(self, record: Record) -> bytes | None:
        return (self._hypervisor.secret(record.secret) if record.secret
                else None)

    def _not_durable(self, task: Task, sight: Sight, missing: str) -> float:
        task.flushes += 1
        attempts = self._tools.settings().flush_attempts
        if sight.seen.presence is Presence.OFF:
            # QEMU died before its tables were written.  The removed layers
            # still hold everything, so the files are merged once more.
            return HAND_OVER
        if task.flushes < attempts:
            self._board.remark(task.record.id,
                               note=f'not durable yet: {missing}')
            return min(SOON * 2.0 ** task.flushes, 5.0)
        return fail(self._tools, task, errors.NotDurable(
            volume_id=task.record.volumes[0], attempts=attempts,
            reason=missing))

    def merge_files(self, task: Task) -> float:
        """Merge the layers of a guest that is shut off; takes its time."""
        record = self._board.amend(
            task.record.id, state=State.RUNNING, incarnation=xml.SHUT_OFF,
            started=True, condition=Condition.OK,
            attempts=task.record.attempts + 1,
            total_bytes=files.cost(task.record), done_bytes=0,
            note='qemu-img works on the files of the guest, which is off')
        try:
            secret = self._secret(record)
            work = files.detached_merge(
                record, secret, lambda percent: self._percent(record, percent))
            work.copy()
            work.prove()
            work.repoint()
            self._redefine(record)
        except (chain_errors.ChainError, errors.LibvirtFailed, OSError) as e:
            domain = self._hypervisor.domain(record.uuid)
            if domain is None or domain.id:
                return SOON  # it was started, or is gone: look again
            return fail(self._tools, task, errors.BlockJobFailed(
                method='the merge', device=record.device,
                domain=record.domain, reason=e))
        return AT_ONCE

    def _percent(self, record: Record, percent: float) -> None:
        self._board.remark(record.id, done_bytes=int(
            record.total_bytes * percent / 100))

    def _redefine(self, record: Record) -> None:
        """Let the persistent definition name what the guest now has."""
        request = merge_request(record)
        active = request.after[-1]
        old = self._hypervisor.definition(record.uuid)
        new = xml.with_source(old, record.device,
                              f'{record.folder}/{active}',
                              record.formats[active])
        domain = self._hypervisor.domain(record.uuid)
        if domain is None or domain.id:
            return
        self._hypervisor.define(new)
        domain = self._hypervisor.domain(record.uuid)
        if domain is not None and domain.id:
            running = domain.by_serial(request.volume_id)
            if running and running[0].active.name != active:
                # Started in between, on the layers as they were.
                self._hypervisor.define(old)

    def wait(self, task: Task, sight: Sight, action: Action) -> float:
        """Do nothing but take note of how things are."""
        record = task.record
        if sight.job is not None and record.started \
                and sight.job.method == record.method \
                and not record.aborting:
            self.tend(task, sight.job)
        elif action.condition is not record.condition:
            self._board.amend(record.id, condition=action.condition,
                              note=action.note)
        elif action.note:
            self._board.remark(record.id, note=action.note)
        if sight.seen.chains:
            self._board.remark(record.id, chains=dict(sight.seen.chains))
        if not sight.seen.turn:
            return LATER  # woken when another merge has ended
        poll = self._tools.settings().poll_interval
        return min(poll, SOON) if sight.seen.missing else poll
