# SPDX-License-Identifier: Apache-2.0
"""The agent without its shell: accepts requests, answers questions.

What the RPC endpoint calls.  Every method may be called from any thread and
raises errors of :mod:`assisted_snapshots.rpcapi.errors` only.  It never
waits for the work itself: accepting means checking and journaling.
"""

from __future__ import annotations

from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.settings import AgentSettings
from assisted_snapshots.rpcapi.messages import AgentInfo
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import LiveChain
from assisted_snapshots.rpcapi.messages import MergeRequest


class Agent:
    """One compute host's agent.

    :ivar journal: its memory; the shell takes the reports out of it.
    """

    def __init__(self, settings: AgentSettings, host: str) -> None:
        self.host = host
        self.settings = settings
        self.journal = Journal(settings.state_dir)

    def start(self) -> None:
        """Begin to work; takes up what an earlier process left.

        Returns at once, also while libvirtd cannot be reached.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Stop working; block jobs go on in QEMU.  The last call."""
        raise NotImplementedError

    def reconfigure(self, settings: AgentSettings) -> None:
        """Take over the mutable settings; the others are left as is."""
        raise NotImplementedError

    def info(self) -> AgentInfo:
        """Say who this is and whether it can work."""
        raise NotImplementedError

    def submit_create(self, request: CreateRequest) -> Job:
        """Accept a snapshot of one or several disks of a guest."""
        raise NotImplementedError

    def submit_merge(self, request: MergeRequest) -> Job:
        """Accept a merge of layers, exactly as planned."""
        raise NotImplementedError

    def job(self, job_id: str) -> Job:
        """Return a job as it stands."""
        raise NotImplementedError

    def jobs(self, volume_id: str | None = None, unfinished: bool = False,
             ) -> tuple[Job, ...]:
        """Return jobs, oldest first."""
        raise NotImplementedError

    def wait(self, job_id: str, revision: int, seconds: float) -> Job:
        """Return a job when it has changed since a revision, or ended.

        Also returns, unchanged, when the seconds are over.
        """
        raise NotImplementedError

    def set_bandwidth(self, job_id: str, bandwidth: int) -> Job:
        """Limit a merge to bytes per second; 0 lifts the limit."""
        raise NotImplementedError

    def pause(self, job_id: str) -> Job:
        """Hold a merge (as slow as QEMU can); it will not pivot."""
        raise NotImplementedError

    def resume(self, job_id: str) -> Job:
        """Let a paused merge go on."""
        raise NotImplementedError

    def abort(self, job_id: str) -> Job:
        """Ask a job to give up; the chain stays as it was."""
        raise NotImplementedError

    def chain(self, volume_id: str) -> LiveChain:
        """Return the chain of an attached volume as it is now."""
        raise NotImplementedError
