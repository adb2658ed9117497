# SPDX-License-Identifier: Apache-2.0
"""Waits for what the agent is doing to a volume, where it is in the way.

Most jobs end at once: a short wait spares the user a refusal.  This module
never ends a job; whoever wants that aborts it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
import time

from assisted_snapshots.nova_hooks.errors import AtWork
from assisted_snapshots.nova_hooks.errors import HookError
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import Job

_PAUSE = 0.5


class Jobs:
    """The unfinished jobs of one host's agent.

    :param patience: seconds to wait for their end.
    """

    def __init__(self, agent: AgentClient, patience: float) -> None:
        self._agent = agent
        self._patience = patience

    def ended(self, volumes: Collection[str]) -> None:
        """Return when no job is unfinished on any of the volumes.

        :raises AtWork: one still is when patience is over.
        :raises AgentError: the agent does not tell.
        """
        self.patiently(lambda: self._first(volumes))

    def patiently(self, hindrance: Callable[[], HookError | None]) -> None:
        """Return when nothing is in the way any more; else raise it."""
        begun = time.monotonic()
        while (found := hindrance()) is not None:
            if time.monotonic() - begun >= self._patience:
                raise found
            time.sleep(_PAUSE)

    def _first(self, volumes: Collection[str]) -> HookError | None:
        for job in self._agent.list_jobs(unfinished=True):
            if not set(job.volumes).isdisjoint(volumes):
                return AtWork(kind=job.kind, subject=' '.join(job.subjects),
                              volume_id=' '.join(job.volumes),
                              job_id=job.id, percent=_percent(job))
        return None


def _percent(job: Job) -> int:
    return 100 * job.done_bytes // job.total_bytes if job.total_bytes else 0
