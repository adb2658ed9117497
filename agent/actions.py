# SPDX-License-Identifier: Apache-2.0
"""Carries out what was decided about a merge, one action at a time.

Each method journals what it is about to do, then does it.  It returns after
how many seconds to look again, 0 for at once.  It must never remove a file,
and never judge its own success: the next look does.
"""

from __future__ import annotations

import logging
from pathlib import Path
import time

from assisted_snapshots.agent import convergence
from assisted_snapshots.agent import durability
from assisted_snapshots.agent import preflight
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.decide import Action
from assisted_snapshots.agent.decide import Presence
from assisted_snapshots.agent.detached import FileActions
from assisted_snapshots.agent.files import left_layers
from assisted_snapshots.agent.hypervisor import BlockJob
from assisted_snapshots.agent.observe import Sight
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.tools import AT_ONCE
from assisted_snapshots.agent.tools import CRAWL
from assisted_snapshots.agent.tools import fail
from assisted_snapshots.agent.tools import HAND_OVER
from assisted_snapshots.agent.tools import LATER
from assisted_snapshots.agent.tools import merge_request
from assisted_snapshots.agent.tools import SOON
from assisted_snapshots.agent.tools import Tools
from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import State

LOG = logging.getLogger(__name__)


class MergeActions:
    """The actions of a merge."""

    def __init__(self, tools: Tools, detached: FileActions) -> None:
        self._tools = tools
        self._files = detached
        self._board = tools.board
        self._hypervisor = tools.hypervisor

    def start(self, task: Task, sight: Sight) -> float:
        """Begin the block job."""
        remedy = sight.domain and preflight.can_commit(
            self._hypervisor.libvirt_version, sight.domain)
        if merge_request(task.record).down and remedy:
            return fail(self._tools, task, errors.NotSupported(reason=remedy))
        record = self._board.amend(
            task.record.id, state=State.RUNNING, started=False,
            incarnation=sight.seen.incarnation, condition=Condition.OK,
            attempts=task.record.attempts + 1, note='begins')
        task.verdict = task.track = task.missing_since = None
        task.canceling = False
        try:
            preflight.check_whole(record)
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
        slack = convergence.slack(record.bandwidth)
        found = convergence.judge(task.track, settings.stall_window + slack,
                                  settings.convergence_window + slack)
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
            # Tried again with every look; as stalled, it can be aborted.
            if task.record.condition is not Condition.STALLED:
                self._board.amend(task.record.id, condition=Condition.STALLED)
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
                       else self._files.missing(record))
        except errors.HypervisorDown:
            raise
        except (errors.AgentError, chain_errors.ChainError, OSError) as e:
            missing = str(e)
        if missing:
            return self._not_durable(task, sight, missing)
        self._board.amend(
            record.id, state=State.DONE, done_bytes=record.total_bytes,
            left=left_layers(record),
            note=('the abort came too late: ' if record.aborting else '')
                 + f'merged into {merge_request(record).survivor}, which is '
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

    def _not_durable(self, task: Task, sight: Sight, missing: str) -> float:
        task.flushes += 1
        attempts = self._tools.settings().flush_attempts
        if sight.seen.presence is Presence.OFF \
                and task.record.method != 'active-commit':
            # QEMU died before its tables were written.  The removed layers
            # still hold everything, so the files are merged once more.  Not
            # after a pivot (before which QEMU flushes): what the guest has
            # written since is in the survivor only.
            return HAND_OVER
        # A guest that is still suspended for the flush is continued first.
        if task.flushes < attempts or task.record.suspended:
            self._board.remark(task.record.id,
                               note=f'not durable yet: {missing}')
            return min(SOON * 2.0 ** task.flushes, 5.0)
        return fail(self._tools, task, errors.NotDurable(
            volume_id=task.record.volumes[0], attempts=attempts,
            reason=missing))

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
