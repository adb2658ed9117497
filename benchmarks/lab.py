# SPDX-License-Identifier: Apache-2.0
"""What every benchmark starts from, and small steps they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import ExitStack
from dataclasses import dataclass
import json
from pathlib import Path
import time

from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab.guest import Guest
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.share import Volume
from tests.functional.lab.stage import Stage


class JobDidNotEnd(AssertionError):
    """A job of a benchmark ended otherwise than as done."""

    def __init__(self, job: Job) -> None:
        super().__init__(f'{job.kind} ended {job.state}: {job.error}')


@dataclass(frozen=True)
class Lab:
    """The servers of a run."""

    libvirtd: Libvirtd
    rabbit: Rabbit

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Give a benchmark its own folder, guests and agents."""
        stage = Stage(self.libvirtd, f'bench-{name}')
        try:
            yield stage
        except BaseException:
            stage.collect()
            stage.close(keep=True)
            raise
        stage.close()


@contextmanager
def running() -> Iterator[Lab]:
    """Start the servers; end them."""
    with ExitStack() as stack:
        rabbit, libvirtd = Rabbit(), Libvirtd()
        for server in (rabbit, libvirtd):
            stack.callback(server.stop)
            server.start()
        yield Lab(libvirtd, rabbit)


def put_info(volume: Volume, layers: tuple[str, ...]) -> None:
    """Write .info for a chain made by hand, base first."""
    ids = {name.rpartition('.')[2]: name for name in layers[1:]}
    path = volume.folder / f'{volume.name}.info'
    path.write_text(json.dumps({'active': layers[-1], **ids}, indent=1,
                               sort_keys=True))


def create_request(volume: Volume, new: Path) -> CreateRequest:
    """Return the request for a snapshot onto a prepared overlay."""
    snapshot_id = new.name.rpartition('.')[2]
    return CreateRequest((SnapshotDisk(volume.id, snapshot_id, new.name),),
                         Quiesce.OFF)


def merge_request(guest: Guest, volume: Volume, top: str, *, up: bool = False,
                  bandwidth: int = 0) -> MergeRequest:
    """Return the request that merges a layer with the one below it."""
    chain = guest.chain(volume)
    below = chain[chain.index(top) - 1]
    return MergeRequest(Kind.DELETE, volume.id, top.rpartition('.')[2],
                        chain, (below, top), top if up else below, bandwidth)


def done(client: AgentClient, job: Job) -> Job:
    """Wait until a job is done."""
    while not job.state.final:
        job = client.wait_job(job.id, job.revision)
    if job.state is not State.DONE:
        raise JobDidNotEnd(job)
    return job


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Append how many seconds something took."""
    begun = time.perf_counter()
    yield
    into.append(time.perf_counter() - begun)


def written(pid: int) -> int:
    """Bytes that a process has caused to be written."""
    text = Path(f'/proc/{pid}/io').read_text()
    return int(dict(line.split(': ') for line in text.splitlines())
               ['write_bytes'])
