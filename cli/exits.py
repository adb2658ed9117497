# SPDX-License-Identifier: Apache-2.0
"""What the exit status says, for scripts.

====  ==================================================================
0     done
1     failed; it can be repeated
2     the command line is wrong
3     refused, nothing was changed
4     needs attention: what is on the share is neither the state before
      an operation nor the one after it, or a check has findings
====  ==================================================================
"""

from __future__ import annotations

import enum

from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.cli import errors
from assisted_snapshots.rpcapi import errors as agent_errors


class Exit(enum.IntEnum):
    """The exit statuses."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    ATTENTION = 4


# The first class that fits counts.
_CLASSES: tuple[tuple[type[Exception], Exit], ...] = (
    (errors.UsageError, Exit.USAGE),
    (chain_errors.Disagreement, Exit.ATTENTION),
    (chain_errors.ImageToolFailed, Exit.FAILED),
    (chain_errors.NotProven, Exit.FAILED),
    (chain_errors.ChainError, Exit.REFUSED),
    (agent_errors.ChainMismatch, Exit.ATTENTION),
    (agent_errors.LibvirtFailed, Exit.FAILED),
    (agent_errors.BlockJobFailed, Exit.FAILED),
    (agent_errors.NotDurable, Exit.FAILED),
    (agent_errors.JobFailed, Exit.FAILED),
    (agent_errors.JobAborted, Exit.FAILED),
    (agent_errors.InternalError, Exit.FAILED),
    (agent_errors.PeerSilent, Exit.FAILED),
    (agent_errors.BrokerUnreachable, Exit.FAILED),
    (agent_errors.AgentError, Exit.REFUSED),
)


def exit_of(error: BaseException) -> Exit:
    """Return the exit status that an error stands for."""
    if isinstance(error, chain_errors.GuestFailed):
        return exit_of_code(str(error.fields.get('code', '')))
    if isinstance(error, agent_errors.JobFailed):
        return max(Exit.FAILED, exit_of_code(error.job_code))
    return _of_class(type(error))


def exit_of_code(code: str) -> Exit:
    """Return the exit status that the agent's error code stands for."""
    for kind in agent_errors.AgentError.__subclasses__():
        if kind.code == code:
            return _of_class(kind)
    return Exit.FAILED


def _of_class(error: type[BaseException]) -> Exit:
    for kind, status in _CLASSES:
        if issubclass(error, kind):
            return status
    return Exit.FAILED
