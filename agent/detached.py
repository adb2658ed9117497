# SPDX-License-Identifier: Apache-2.0
"""Merges the layers of a guest that is shut off, and proves it.

The work is that of :mod:`assisted_snapshots.chain`; here it gets its secret,
its progress a place, and the guest's persistent definition what it has now.
Image locks keep a guest from starting while qemu-img works; one that was
started and shut off after that is noticed.  Never unlinks anything.
"""

from __future__ import annotations

from pathlib import Path

from assisted_snapshots.agent import durability
from assisted_snapshots.agent import files
from assisted_snapshots.agent import xml
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.tools import AT_ONCE
from assisted_snapshots.agent.tools import fail
from assisted_snapshots.agent.tools import merge_request
from assisted_snapshots.agent.tools import SOON
from assisted_snapshots.agent.tools import Tools
from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.chain.lock import denied_to_qemu
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import State


class FileActions:
    """The actions of a merge that no QEMU does."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._board = tools.board
        self._hypervisor = tools.hypervisor

    def merge(self, task: Task) -> float:
        """Merge the layers of a guest that is shut off; takes its time."""
        if self._hypervisor.has_managed_save(task.record.uuid):
            return fail(self._tools, task, errors.GuestState(
                domain=task.record.domain,
                reason='it has a managed-save image of its old layers'))
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
            copied = files.top_mark(record)
            work.prove()
            work.repoint()
            self.move(record, copied)
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

    def move(self, record: Record, copied: list[int]) -> None:
        """Let the definition follow, if what was copied is still all.

        The locks of qemu-img end with it: a guest may have been started,
        written to the upper layer and been shut off since.  The engine then
        sees the chain as before, and the merge is done once more.

        :param copied: mark of the upper layer when it had been copied.
        """
        request = merge_request(record)
        top = request.before[-1]
        if request.after[-1] == top:
            self._redefine(record)
            return
        with denied_to_qemu(Path(record.folder, top)):
            if files.top_mark(record) == copied:
                self._redefine(record)

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

    def missing(self, record: Record) -> str:
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
