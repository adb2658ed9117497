# SPDX-License-Identifier: Apache-2.0
"""Carries out what was decided about a snapshot.

Moves all disks of a request onto their prepared overlays in one transaction
of libvirt, with the guest's file systems frozen where that was asked for.
libvirt may report an error after the guest has moved, so what happened is
always read from the chain.
"""

from __future__ import annotations

from dataclasses import dataclass
import logging

from assisted_snapshots.agent import preflight
from assisted_snapshots.agent import xml
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.decide import Action
from assisted_snapshots.agent.observe import Sight
from assisted_snapshots.agent.quiesce import Freeze
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.tools import AT_ONCE
from assisted_snapshots.agent.tools import fail
from assisted_snapshots.agent.tools import SOON
from assisted_snapshots.agent.tools import Tools
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import Consistency
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import State

LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Attempt:
    """How one attempt went.

    :ivar why_not: why the guest was not quiesced, empty if it was.
    :ivar error: what libvirt or the quiescing raised.
    :ivar thawed: file systems the thaw found frozen; None: not thawed yet.
    """

    why_not: str = ''
    error: errors.AgentError | None = None
    thawed: int | None = 0


class SnapshotActions:
    """The actions of a snapshot."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._board = tools.board
        self._hypervisor = tools.hypervisor

    def snapshot(self, task: Task, sight: Sight) -> float:
        """Take the snapshot, if everything is still as it was accepted."""
        record = task.record
        request = create_request(record)
        if sight.domain is None:
            return SOON
        try:
            self._check(sight, request)
            reason = self._cannot_freeze(sight.domain, request.quiesce)
        except errors.HypervisorDown:
            raise
        except errors.AgentError as e:
            return fail(self._tools, task, e)
        freeze = not reason and request.quiesce is not Quiesce.OFF
        if reason and request.quiesce is Quiesce.REQUIRE \
                and not self._rests(sight.domain):
            return fail(self._tools, task, errors.QuiesceFailed(
                domain=record.domain, reason=reason))
        self._board.amend(
            record.id, state=State.RUNNING, frozen=freeze,
            incarnation=sight.seen.incarnation, condition=Condition.OK,
            attempts=record.attempts + 1, note='moves the guest')
        attempt = (self._frozen(task, sight) if freeze
                   else self._plain(sight, request, reason))
        return self._conclude(task, sight, attempt)

    def _check(self, sight: Sight, request: CreateRequest) -> None:
        if sight.domain is None:
            return
        for wanted in request.disks:
            disk = sight.disks[wanted.volume_id]
            preflight.check_idle(self._hypervisor, sight.domain, disk)
            preflight.check_overlay(disk, sight.layers[wanted.volume_id],
                                    wanted.new_file)

    def _rests(self, domain: xml.Domain) -> bool:
        """Tell whether the guest has powered itself off."""
        return (not domain.id
                and self._hypervisor.was_shut_down(domain.uuid))

    def _cannot_freeze(self, domain: xml.Domain, quiesce: Quiesce) -> str:
        if quiesce is Quiesce.OFF:
            return 'not asked for'
        if not domain.id:
            return 'the guest is shut off'
        if not self._hypervisor.is_running(domain.uuid):
            return 'the guest is paused'
        if domain.guest_agent != 'connected':
            return 'no guest agent is connected'
        return ''

    def _plain(self, sight: Sight, request: CreateRequest,
               reason: str) -> _Attempt:
        attempt = _Attempt(why_not=reason)
        try:
            self._move(sight, request)
        except errors.HypervisorDown:
            raise
        except errors.AgentError as e:
            attempt.error = e
        return attempt

    def _frozen(self, task: Task, sight: Sight) -> _Attempt:
        """Freeze, move, thaw; the thaw comes whatever happens."""
        record, request = task.record, create_request(task.record)
        freeze = Freeze(self._hypervisor, self._tools.guard, record.uuid,
                        self._tools.settings().quiesce_timeout,
                        self._tools.stopping)
        attempt = _Attempt()
        try:
            attempt.why_not = freeze.freeze()
            if not attempt.why_not and freeze.overdue:
                attempt.why_not = 'freezing took too long'
            elif not attempt.why_not and self._moved(record):
                attempt.why_not = 'it had moved before it was frozen'
            if attempt.why_not and request.quiesce is Quiesce.REQUIRE:
                attempt.error = errors.QuiesceFailed(
                    domain=record.domain, reason=attempt.why_not)
            else:
                if attempt.why_not:
                    # A guest that answers late must not freeze afterwards.
                    freeze.thaw()
                self._move(sight, request)
        except errors.AgentError as e:
            attempt.error = e
        finally:
            attempt.thawed = freeze.thaw()
        return attempt

    def _moved(self, record: Record) -> bool:
        """Tell whether an earlier attempt's call has moved the guest.

        libvirtd carries out what an agent asked for that is dead by now.
        """
        if record.attempts == 1:
            return False
        domain = self._hypervisor.domain(record.uuid)
        return domain is not None and record.after == {
            v: _names(domain, v) for v in record.volumes}

    def _move(self, sight: Sight, request: CreateRequest) -> None:
        if sight.domain is None:
            return
        new = {}
        for wanted in request.disks:
            disk = sight.disks[wanted.volume_id]
            new[disk.device] = (f'{disk.folder}/{wanted.new_file}',
                                disk.secret)
        self._hypervisor.snapshot(sight.domain.uuid,
                                  xml.snapshot_xml(sight.domain, new))

    def _conclude(self, task: Task, sight: Sight,
                  attempt: _Attempt) -> float:
        """Read from the chain what happened."""
        record = task.record
        frozen = record.frozen and attempt.thawed is None
        if isinstance(attempt.error, errors.HypervisorDown):
            self._board.amend(record.id, frozen=frozen)
            raise attempt.error
        domain = self._hypervisor.domain(record.uuid)
        if domain is not None and domain.id == record.incarnation:
            live = {v: _names(domain, v) for v in record.volumes}
            if live == record.after:
                return self._finish(task, sight, attempt, frozen)
            if live == record.before and attempt.error is not None:
                return fail(self._tools, task, attempt.error, frozen=frozen)
        if record.frozen and not frozen:
            self._board.amend(record.id, frozen=False)
        return SOON

    def _finish(self, task: Task, sight: Sight, attempt: _Attempt,
                frozen: bool) -> float:
        if attempt.error is not None:
            LOG.warning('the guest of job %s has moved, although: %s',
                        task.record.id, attempt.error)
        consistent = bool(attempt.thawed) and not attempt.why_not
        if sight.domain is not None and self._rests(sight.domain):
            consistent = True
        note = 'the guest has the new layers'
        if not consistent:
            note += ', not quiesced: ' + (attempt.why_not or (
                'it was thawed before the snapshot was done'))
        return self.finish(task, note, consistent, frozen)

    def finish(self, task: Task, note: str, consistent: bool = False,
               frozen: bool = False) -> float:
        """End the job as done.

        :param consistent: the file systems are known to be consistent.
        :param frozen: the guest could not be thawed yet.
        """
        self._board.amend(
            task.record.id, state=State.DONE, condition=Condition.OK,
            frozen=frozen, chains=task.record.after, note=note,
            consistency=(Consistency.FILESYSTEM if consistent
                         else Consistency.CRASH))
        return AT_ONCE

    def wait(self, task: Task, action: Action) -> float:
        """Do nothing but take note of how things are."""
        self._board.remark(task.record.id, note=action.note)
        return SOON


def create_request(record: Record) -> CreateRequest:
    """Return the request of a snapshot job."""
    if not isinstance(record.request, CreateRequest):
        raise TypeError(record.kind)
    return record.request


def _names(domain: xml.Domain, volume_id: str) -> tuple[str, ...]:
    """Return the layers of a volume, empty if it is not attached."""
    disks = domain.by_serial(volume_id)
    if len(disks) != 1:
        return ()
    return tuple(n.name for n in preflight.layers(domain, disks[0]))
