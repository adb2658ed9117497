# SPDX-License-Identifier: Apache-2.0
"""What all actions share: the tools, the ways to end, the ways to wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading

from assisted_snapshots.agent.board import Board
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.hypervisor import Hypervisor
from assisted_snapshots.agent.quiesce import Guard
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.settings import AgentSettings
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
