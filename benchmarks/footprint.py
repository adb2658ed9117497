# SPDX-License-Identifier: Apache-2.0
"""What the agent itself needs: memory, and time to pick up its work."""

from __future__ import annotations

import time

from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State
from benchmarks.lab import Lab
from benchmarks.lab import merge_request
from benchmarks.lab import put_info
from benchmarks.table import mib
from benchmarks.table import Results
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.guest import Guest
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Share
from tests.functional.lab.share import Volume
from tests.functional.lab.stage import Stage

GUESTS = 8
DISKS = 25
IDLE_LIMIT = 80 * MIB
RESUME_LIMIT = 3.0
SLOWEST = 1  # byte per second: the jobs stay open


def measure(lab: Lab, results: Results) -> None:
    """Measure memory with no, one and many open jobs; then a resume."""
    with lab.stage('footprint') as stage:
        agent = stage.agent(lab.rabbit, max_running_jobs=GUESTS * DISKS)
        agent.start()
        client = agent.client(timeout=60)
        client.ping()
        idle = agent.memory()
        results.add('memory, idle', mib(idle), '', f'under {mib(IDLE_LIMIT)}',
                    idle < IDLE_LIMIT)
        guests = _guests(stage)
        first = _open(client, *guests[0], 0)
        _running(client, 1)
        results.add('memory, 1 open job', mib(agent.memory()))
        for guest, volumes in guests:
            for place in range(len(volumes)):
                if (guest, place) != (guests[0][0], 0):
                    _open(client, guest, volumes, place)
        _running(client, GUESTS * DISKS)
        results.add(f'memory, {GUESTS * DISKS} open jobs',
                    mib(agent.memory()))
        agent.kill()
        begun = time.monotonic()
        agent.start()
        ready = time.monotonic() - begun
        _adopted(client, first)
        resumed = time.monotonic() - begun
        results.add(
            f'resume after SIGKILL, {GUESTS * DISKS} open jobs',
            f'{resumed:.2f} s', f'ready after {ready:.2f} s',
            f'within {RESUME_LIMIT:g} s', resumed <= RESUME_LIMIT)


def _guests(stage: Stage) -> list[tuple[Guest, list[Volume]]]:
    """Paused guests with many small disks of two snapshots each."""
    share = stage.share()
    found = []
    for _ in range(GUESTS):
        volumes = [_volume(share) for _ in range(DISKS)]
        guest = stage.guest(*volumes)
        guest.start(paused=True)
        found.append((guest, volumes))
    return found


def _volume(share: Share) -> Volume:
    volume = share.volume('raw', 8 * MIB)
    names = [volume.name]
    for snapshot_id in ('one', 'two'):
        overlay = share.overlay(volume, snapshot_id)
        names.append(overlay.name)
        put_info(volume, tuple(names))
    images.io(volume.layer('one'), 'qcow2', ['write -q 0 8M'])
    return volume


def _open(client: AgentClient, guest: Guest, volumes: list[Volume],
          place: int) -> Job:
    """Begin a merge that takes for ever."""
    volume = volumes[place]
    return client.merge(merge_request(
        guest, volume, volume.layer('one').name, bandwidth=SLOWEST))


def _running(client: AgentClient, count: int) -> None:
    waiting.until(
        lambda: sum(job.state is State.RUNNING
                    for job in client.list_jobs(unfinished=True)) == count,
        f'{count} running jobs', 120, 0.2)


def _adopted(client: AgentClient, job: Job) -> None:
    """Wait until the new process has looked at a job."""
    waiting.until(lambda: client.get_job(job.id).total_bytes > 0,
                  'the job being taken up', 60, 0.01)
