# SPDX-License-Identifier: Apache-2.0
"""The agent's settings as one immutable value.

The core knows no configuration library: the shell reads oslo.config and
makes one of these; a reload makes another and hands it to
:meth:`~assisted_snapshots.agent.core.Agent.reconfigure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Settings that :meth:`Agent.reconfigure` takes over in a running agent;
#: the others need a restart.
MUTABLE = frozenset({
    'bandwidth', 'poll_interval', 'quiesce_timeout', 'create_deadline',
    'stall_window', 'convergence_window', 'raise_bandwidth',
    'job_retention', 'max_running_jobs', 'flush_attempts', 'max_layers'})


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an operator can set; sizes in bytes, times in seconds.

    :ivar state_dir: folder of the journal, on local storage.
    :ivar libvirt_uri: the hypervisor this agent works on.
    :ivar bandwidth: default limit of a merge in bytes/s, 0 for none.
    :ivar poll_interval: how often a running job is looked at when no event
        came; also the resolution of progress.
    :ivar quiesce_timeout: the longest a guest may stay frozen.
    :ivar create_deadline: a snapshot not begun by then fails instead of
        happening late.
    :ivar stall_window: a job that moves nothing for so long is stalled.
    :ivar convergence_window: an active commit whose remainder does not
        shrink for so long does not converge.
    :ivar raise_bandwidth: lift the limit of a job that does not converge.
    :ivar job_retention: how long a finished job is remembered.
    :ivar max_running_jobs: merges that run at a time; others wait.
    :ivar flush_attempts: how often durability is tried before a merge fails.
    :ivar max_layers: the deepest chain a snapshot may make. libvirt 11.3
        does not start a guest on more than 25 layers: it gives up on QEMU's
        answer, whose JSON nests deeper with each (measured; see the
        functional test of deep chains).
    :ivar crash_at: fault testing only: SIGKILL this process after the Nth
        journal write; 0 is off.
    """

    state_dir: Path
    libvirt_uri: str = 'qemu:///system'
    bandwidth: int = 0
    poll_interval: float = 1.0
    quiesce_timeout: float = 30.0
    create_deadline: float = 60.0
    stall_window: float = 60.0
    convergence_window: float = 60.0
    raise_bandwidth: bool = True
    job_retention: float = 7 * 86400.0
    max_running_jobs: int = 8
    flush_attempts: int = 8
    max_layers: int = 24
    crash_at: int = 0
