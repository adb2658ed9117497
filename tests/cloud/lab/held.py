# SPDX-License-Identifier: Apache-2.0
"""Merges that go so slowly that a test says when they end."""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import signal

from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.errors import JobState
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import State
from tests.cloud.lab import config
from tests.cloud.lab import process
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.stage import Stage
from tests.functional.lab import waiting

#: Bytes per second; QEMU then rests for hours after the first block.
CRAWL = 1
#: Records; more than one block of QEMU's.
ENOUGH = 1200


class HeldJobs:
    """The jobs of the cloud's agents, as long as merges are held."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        way = transport.make(url=settings.found['rabbit'])
        self.agents: Mapping[str, AgentClient] = {
            host: AgentClient(way, host) for host in HOSTS}
        self._limit(CRAWL)

    def release(self) -> None:
        """Hold no more; what is held goes on."""
        self._limit(0)
        for agent in self.agents.values():
            for job in agent.list_jobs(unfinished=True):
                _let_go(agent, job)

    def delete(self, stage: Stage, snapshot: str,
               host: str = HOSTS[0]) -> Job:
        """Ask for a deletion; returns when its merge has begun."""
        stage.writer.write_more(ENOUGH)
        stage.project.request_deletion(snapshot)

        def begun() -> Job | None:
            return next((job for job in self.agents[host].list_jobs(
                stage.id, unfinished=True) if job.kind is Kind.DELETE
                and job.state is State.RUNNING), None)
        job = waiting.until(begun, f'a merge for {snapshot}', 60, 0.1)
        assert job.bandwidth == CRAWL
        return job

    def _limit(self, bandwidth: int) -> None:
        """Have every agent read another limit."""
        for host in HOSTS:
            path = self._settings.config(f'agent-{host}')
            sections = dict(config.agent(self._settings, host))
            sections['agent'] = {**sections['agent'],
                                 'bandwidth': bandwidth}
            config.write(path, sections)
            os.kill(_reader(self._settings, path), signal.SIGHUP)


def _let_go(agent: AgentClient, job: Job) -> None:
    try:
        agent.set_bandwidth(job.id, 0)
    except JobState:
        # It has ended, or qemu-img does it, which nothing holds.
        return


def _reader(settings: Settings, path: Path) -> int:
    """The process that has read a configuration file."""
    (found,) = [pid for pid in process.marked(settings.folder)
                if str(path).encode() in Path(
                    f'/proc/{pid}/cmdline').read_bytes().split(b'\0')]
    return found
