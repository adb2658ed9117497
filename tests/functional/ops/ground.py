# SPDX-License-Identifier: Apache-2.0
"""What a test of an operation stands on, and what must be true at its end.

A :class:`Ground` has the agent and makes guests; a :class:`Watched` is one
of their volumes with the verifying writer on it.  It keeps account of what
every snapshot must hold.  :meth:`Ground.settle` proves all of it, after
every test, whatever the test was about.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
import json
from pathlib import Path
import threading
from typing import TypeVar
import uuid

import libvirt

from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.value import Format
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.guest import AgentGuest
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab import audit
from tests.functional.lab import content
from tests.functional.lab import domain_xml
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Guest
from tests.functional.lab.guest import Moment
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Volume
from tests.functional.lab.stage import Stage

T = TypeVar('T')

CONSISTENT = 'filesystem-consistent'
CRASH = 'crash-consistent'
#: Records between two snapshots: enough to tell them apart.
FEW = 60
#: Fillings of a layer in MiB.  The writer alone makes none larger than 8.
SMALL = 0
LARGE = 24
#: Slow enough to catch any merge in flight.
SLOW = MIB // 4


class Ground:
    """Agent, share and guests of one test.

    :ivar client: the bare client of the agent.
    """

    def __init__(self, stage: Stage, agent: Agent) -> None:
        self.stage = stage
        self.share = stage.share()
        self.client = agent.client()
        self.watched: list[Watched] = []

    def serve_with(self, agent: Agent) -> None:
        """Have another agent do what follows."""
        self.client = agent.client()

    def guest(self, *volumes: Volume, persistent: bool = True) -> Guest:
        """A guest that runs."""
        machine = self.stage.guest(*volumes, persistent=persistent)
        machine.start()
        return machine

    def watch(self, machine: Guest, volume: Volume, *, blocks: int = 2048,
              delay: float = 0, file: str = '') -> Watched:
        """Start the writer on a volume of a guest."""
        found = Watched(self, machine, volume, blocks, delay, file)
        found.writer.start()
        self.watched.append(found)
        return found

    def one(self, fmt: str = 'qcow2', *, persistent: bool = True,
            encrypted: bool = False, delay: float = 0) -> Watched:
        """A guest with one volume, under load."""
        volume = self.share.volume(fmt, encrypted=encrypted)
        machine = self.guest(volume, persistent=persistent)
        return self.watch(machine, volume, delay=delay)

    def pair(self) -> list[Watched]:
        """One guest that writes on a raw and on a qcow2 volume."""
        volumes = [self.share.volume('raw'), self.share.volume('qcow2')]
        machine = self.guest(*volumes)
        return [self.watch(machine, volume) for volume in volumes]

    def later(self, work: Callable[..., T], *args: object) -> Future[T]:
        """Do something beside the test."""
        future: Future[T] = Future()
        threading.Thread(target=_into, args=(future, work, args),
                         daemon=True).start()
        return future

    def settle(self) -> None:
        """Prove everything: nothing lost, leaked, left over or damaged."""
        for one in self.watched:
            one.rest()
        for machine in {one.machine.name: one.machine
                        for one in self.watched}.values():
            machine.destroy()
        for one in self.watched:
            one.prove()


def _into(future: Future[T], work: Callable[..., T],
          args: tuple[object, ...]) -> None:
    try:
        future.set_result(work(*args))
    except BaseException as error:
        future.set_exception(error)


class Watched:
    """A volume with the writer on it, and what has to be true of it.

    :ivar expected: snapshot id -> where its content must end; oldest first.
    :ivar labels: snapshot id -> what the agent said it is worth.
    :ivar jobs: what the agent told, in order.
    """

    def __init__(self, ground: Ground, machine: Guest, volume: Volume,
                 blocks: int, delay: float, file: str) -> None:
        self.ground = ground
        self.machine = machine
        self.volume = volume
        self.file = file
        self.writer = machine.writer(volume, blocks=blocks, delay=delay,
                                     file=file and f'/data/{file}')
        self.expected: dict[str, Bounds] = {}
        self.labels: dict[str, str] = {}
        self.jobs: list[Job] = []
        self.last: Bounds | None = None

    # What is there ------------------------------------------------------

    @property
    def files(self) -> VolumeFiles:
        """Where the product finds the volume."""
        return VolumeFiles(self.volume.folder, self.volume.name)

    @property
    def live(self) -> tuple[str, ...]:
        """The layers as libvirt shows them."""
        return self.machine.chain(self.volume)

    def names(self, *snapshots: str) -> tuple[str, ...]:
        """The overlays of snapshots; an empty id stands for the base."""
        return tuple(self.volume.layer(s).name if s else self.volume.name
                     for s in snapshots)

    def allocated(self, name: str) -> int:
        """Bytes that a layer occupies."""
        return (self.volume.folder / name).stat().st_blocks * 512

    # Whole operations, as Cinder and the command line do them -----------

    def guest_side(self, bandwidth: int = 0) -> AgentGuest:
        """The port to the guest, through the agent."""
        def failed(error: errors.AgentError) -> GuestFailed:
            code = (error.job_code if isinstance(error, errors.JobFailed)
                    else error.code)
            return GuestFailed(volume=self.volume.name, reason=str(error),
                               code=code)
        return AgentGuest(self.ground.client, progress=self.jobs.append,
                          error=failed, bandwidth=bandwidth)

    def operations(self, bandwidth: int = 0) -> Operations:
        """All that can be done to the volume."""
        adopted = not self.files.journal.exists()
        secret = self.volume.secret
        return Operations(
            self.files, guest=self.guest_side(bandwidth),
            formats=({self.volume.name: Format(self.volume.format)}
                     if adopted else None),
            secret=Secret(secret) if secret is not None else None)

    def create(self, quiesce: str = 'off') -> str:
        """Take a snapshot under load; its id."""
        snapshot = str(uuid.uuid4())
        with Moment(self.writer) as moment:
            self.labels[snapshot] = self.operations().create(snapshot,
                                                             quiesce)
        self.expected[snapshot] = moment.bounds
        return snapshot

    def record(self, snapshot: str, bounds: Bounds) -> None:
        """Enter a snapshot that was taken by the bare protocol."""
        self.expected[snapshot] = bounds
        active = self.volume.layer(snapshot).name
        self.files.info.write_text(json.dumps(
            {**self.volume.info, 'active': active, snapshot: active},
            indent=1, sort_keys=True))

    def grow(self, records: int, then: Callable[[], T]) -> T:
        """Let the guest write so much, then do something."""
        self.writer.write_more(records)
        return then()

    def layers(self, *fillings: int) -> list[str]:
        """Layers of such fillings, from the base on; their snapshots."""
        made = []
        for place, filling in enumerate(fillings):
            if place:
                made.append(self.create())
            self.fill(filling)
            self.writer.write_more(FEW)
        return made

    def filling(self, megabytes: int) -> str:
        """A command that writes zeroes where the writer does not.

        The content stays provable: what was never written is zero as well.
        """
        device = self.machine.device(self.volume)
        return (f'dd if=/dev/zero of=/dev/{device} bs=1M seek=16 '
                f'count={megabytes} conv=notrunc,fsync 2>/dev/null')

    def fill(self, megabytes: int) -> None:
        """Make the active layer large."""
        if megabytes:
            self.machine.run(self.filling(megabytes))

    def delete(self, snapshot: str, bandwidth: int = 0) -> Job:
        """Delete a snapshot; the job as it ended."""
        self.operations(bandwidth).delete(snapshot)
        del self.expected[snapshot]
        return self.jobs[-1]

    def flatten(self) -> Job:
        """Make one layer of all; the job as it ended."""
        self.operations().flatten(delete_snapshots=True)
        self.expected.clear()
        return self.jobs[-1]

    def deleting(self, snapshot: str, bandwidth: int = SLOW
                 ) -> tuple[Job, Future[Job]]:
        """Begin to delete a snapshot; the running job, and the rest."""
        rest = self.ground.later(self.delete, snapshot, bandwidth)
        return self.running(rest), rest

    def running(self, rest: Future[Job]) -> Job:
        """The volume's unfinished job, once QEMU is at it."""
        def begun() -> Job | None:
            if rest.done():
                rest.result()
            found = self.ground.client.list_jobs(self.volume.id, True)
            return found[0] if found and found[0].done_bytes else None
        return waiting.until(begun, 'a block job', interval=0.1)

    # The bare protocol --------------------------------------------------

    def request(self, plan: MergePlan, bandwidth: int = SLOW
                ) -> MergeRequest:
        """A merge request for a plan to delete a snapshot."""
        gone = set(plan.snapshots_before) - set(plan.snapshots_after)
        return MergeRequest(Kind.DELETE, self.volume.id, gone.pop(),
                            plan.before, plan.merged, plan.survivor,
                            bandwidth)

    def disk(self, file: str, snapshot: str = '') -> SnapshotDisk:
        """A disk of a create request."""
        return SnapshotDisk(self.volume.id, snapshot or str(uuid.uuid4()),
                            file)

    def offer(self, file: str, quiesce: Quiesce = Quiesce.OFF,
              snapshot: str = '') -> Job:
        """Ask the bare agent to move the guest onto a file."""
        return self.ground.client.create_snapshot(
            CreateRequest((self.disk(file, snapshot),), quiesce))

    def ended(self, job: Job, seconds: float = 60) -> Job:
        """Wait until a job has ended."""
        def final() -> Job | None:
            now = self.ground.client.wait_job(job.id, job.revision, 5)
            return now if now.state.final else None
        return waiting.until(final, f'the end of {job.id}', seconds, 0)

    # What must be true --------------------------------------------------

    def unchanged(self, act: Callable[..., T], *args: object,
                  written: str = '') -> T:
        """Do something that must leave files and guest alone.

        :param written: a layer that somebody else writes to meanwhile.
        """
        before = self._picture(written)
        try:
            return act(*args)
        finally:
            assert self._picture(written) == before

    def _picture(self, written: str) -> dict[str, object]:
        """Everything but what the guest itself writes to."""
        folder = self.volume.folder
        live = self.live
        return {'live': live, 'info': self.volume.info,
                'files': {p.name for p in folder.iterdir()
                          if not p.name.endswith(('.lock', '.journal'))},
                'layers': {name: (folder / name).stat().st_mtime_ns
                           for name in live[:-1] if name != written}}

    def rest(self) -> None:
        """Note how far the writer came, and stop it."""
        if not self.machine.active():
            return
        assert self.live == audit.layers(self.volume)
        if self.last is None:
            self.stop()

    def stop(self) -> None:
        """Stop the writer for good."""
        done = self.writer.stop()
        assert done.acknowledged == done.submitted
        assert done.errors == 0
        self.last = Bounds(done.acknowledged, done.acknowledged)

    def prove(self) -> None:
        """Prove the volume and its snapshots; no guest may run on it."""
        assert self.last is not None, 'nobody knows what was written'
        audit.settled(self.volume, self.expected)
        assert self.defined() in (self.volume.active.name, None)
        assert self.operations().check() == []
        self.snapshot_contents()
        self.holds(self.volume.active, self.volume.active_format, self.last)

    def snapshot_contents(self) -> None:
        """Prove every snapshot; a guest may run on the volume."""
        for snapshot, bounds in self.expected.items():
            image, fmt = audit.below(self.volume, snapshot)
            self.holds(image, fmt, bounds,
                       self.labels.get(snapshot) == CONSISTENT)

    def holds(self, image: Path, fmt: str, bounds: Bounds,
              clean: bool = False) -> None:
        """Prove an image against what this volume's writer wrote.

        :param clean: if it has a file system, that was frozen.
        """
        if self.file:
            content.prove_ext4(image, fmt, f'/{self.file}',
                               self.writer.pattern, bounds, clean=clean)
        else:
            content.prove(image, fmt, self.writer.pattern, bounds,
                          secret=self.volume.secret)

    def defined(self) -> str | None:
        """The file a persistent domain would start on."""
        try:
            text = self.machine.domain.XMLDesc(
                libvirt.VIR_DOMAIN_XML_INACTIVE)
        except libvirt.libvirtError:
            return None
        return domain_xml.chains(text)[self.volume.id][-1]


def done(job: Job, method: str) -> None:
    """See that a job ended well, by this method."""
    assert (job.state, job.method) == (State.DONE, method)
