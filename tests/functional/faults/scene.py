# SPDX-License-Identifier: Apache-2.0
"""What a test of a fault stands on: the ground of the fault-free tests,
with an agent that may be killed and guests that may die.

Nothing here repairs anything: what was killed is only started again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
import contextlib
import itertools
import re
import signal
from typing import TypeVar

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.guest import AgentGuest
from assisted_snapshots.rpcapi.messages import Job
from tests.functional.lab import audit
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Guest
from tests.functional.lab.share import Volume
from tests.functional.lab.stage import Stage
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import Watched

T = TypeVar('T')

KIB = 1024

#: Seconds for which a client waits for the answer of a dead agent.
HASTY = 1.0
#: Longer than any operation here takes, faults included.
PATIENT = 90.0
FOREVER = 1 << 62
#: Bytes per second at which a merge is surely caught in flight.
SLOW = 64 * KIB
METHODS = ('commit', 'active-commit', 'pull')

_CRASHED = re.compile(rb'crash_at: SIGKILL after "[^"]*: (\w+)"')


class Scene(Ground):
    """Agent, share and guests of one test.

    :ivar agent: the agent that works; it may be killed.
    """

    def __init__(self, stage: Stage, agent: Agent) -> None:
        super().__init__(stage, agent)
        self.agent = agent
        self.client = agent.client(HASTY)

    def watch(self, machine: Guest, volume: Volume, *, blocks: int = 2048,
              delay: float = 0, file: str = '') -> Struck:
        """Start the writer on a volume of a guest."""
        found = Struck(self, machine, volume, blocks, delay, file)
        found.writer.start()
        self.watched.append(found)
        return found

    def one(self, fmt: str = 'qcow2', *, persistent: bool = True,
            encrypted: bool = False, delay: float = 0.001) -> Struck:
        """A guest with one volume, under load."""
        volume = self.share.volume(fmt, encrypted=encrypted)
        machine = self.guest(volume, persistent=persistent)
        return self.watch(machine, volume, delay=delay)

    def restart_agent(self, crash_at: int = 0) -> None:
        """Have a new agent go on with the journal of the last.

        :param crash_at: it dies at this write to its journal.
        """
        if self.agent.running:
            self.agent.kill()
        self.agent.options['crash_at'] = crash_at
        self.agent.start()
        # It listens before it is connected to libvirtd.
        waiting.until(self._agent_works, 'a connection of the agent')

    def _agent_works(self) -> bool:
        """Whether it has libvirt, or has died already."""
        try:
            return not self.client.ping().problem
        except errors.PeerSilent:
            return not self.agent.running

    def revive_agent(self) -> None:
        """Start the agent again as it was if it has died."""
        if not self.agent.running:
            self.agent.start(ready=False)

    def freeze_agent(self) -> None:
        """Stop the agent where it is; :meth:`thaw_agent` undoes it."""
        self.agent.signal(signal.SIGSTOP)

    def thaw_agent(self) -> None:
        """Let the agent go on."""
        self.agent.signal(signal.SIGCONT)

    def crashed_at(self) -> list[str]:
        """The states at whose writes the agent has killed itself."""
        return [state.decode() for state
                in _CRASHED.findall(self.agent.log.read_bytes())]

    def walk(self, prepare: Callable[[], Callable[[], object]],
             prove: Callable[[], None]) -> list[str]:
        """Kill the agent at every write to its journal, one run for each.

        It ends with the first run that is over without a kill, so whatever
        writes are added to the agent are walked as well.

        :param prepare: makes the operation of a run.
        :param prove: called after each run.
        :returns: the states at whose writes it was killed.
        """
        for write in itertools.count(1):
            operation = prepare()
            self.restart_agent(crash_at=write)
            if self._survives(self.later(operation)):
                prove()
                return self.crashed_at()
            prove()
        raise AssertionError

    def _survives(self, rest: Future[object]) -> bool:
        """Whether the agent lived; the operation is over in any case."""
        waiting.until(lambda: rest.done() or not self.agent.running,
                      'the end of the operation or of the agent', PATIENT)
        alive = self.agent.running
        if not alive:
            self.restart_agent()
        rest.result(PATIENT)
        return alive


class Struck(Watched):
    """A volume whose guest may die.

    :ivar pulls: no layer may be written to but the active one, as it is
        under an old libvirt with AppArmor.
    :ivar doomed: the snapshot that is being deleted,
    :ivar method: and how.
    """

    pulls = False
    doomed = ''
    method = ''

    def guest_side(self, bandwidth: int = 0) -> AgentGuest:
        """The port to the guest, through the agent."""
        side = super().guest_side(bandwidth)
        if self.pulls:
            refusal = False, 'the test wants a pull'
            side.can_commit = (  # type: ignore[method-assign]
                lambda volume_id: refusal)
        return side

    def stack(self, *records: int) -> list[str]:
        """Snapshots with so many records between them, from the base on."""
        made = []
        for count in records[:-1]:
            self.writer.write_more(count)
            made.append(self.create())
        self.writer.write_more(records[-1])
        return made

    def aim(self, method: str, megabytes: int = 0) -> None:
        """Make layers whose delete goes by a method.

        :param megabytes: of clusters that only the upper layer has.
        """
        self.pulls, self.method = method == 'pull', method
        # The planner finds a commit cheaper, and a pull takes its time,
        # however fast the writer is.
        self.fill(LARGE)
        self.writer.write_more(700)
        self.doomed = self.create()
        if megabytes:
            device = self.machine.device(self.volume)
            self.machine.run(f'dd if=/dev/zero of=/dev/{device} bs=1M '
                             f'seek=44 count={megabytes} conv=notrunc,fsync')
        self.writer.write_more(200)
        if method == 'commit':
            self.create()
            self.writer.write_more(FEW)

    def begin(self, bandwidth: int = SLOW) -> tuple[Job, Future[Job]]:
        """Begin a delete that takes a while; the running job."""
        job, rest = self.deleting(self.doomed, bandwidth)
        assert job.method == self.method
        return job, rest

    def flight(self, method: str, bandwidth: int = SLOW
               ) -> tuple[Job, Future[Job]]:
        """Aim and begin."""
        self.aim(method)
        return self.begin(bandwidth)

    def hurry(self, job: Job) -> None:
        """Lift a job's limit, unless it has come to its end by itself."""
        with contextlib.suppress(errors.JobState):
            self.ground.client.set_bandwidth(job.id, 0)

    def unlimited(self) -> None:
        """Lift the limit of the block job behind the agent's back."""
        self.machine.domain.blockJobSetSpeed(
            self.machine.device(self.volume), 0, 0)

    def die(self) -> None:
        """SIGKILL the guest's QEMU; nothing acknowledged may be missing."""
        known = self.writer.progress().acknowledged
        self.machine.kill()
        held = audit.active_holds(self.volume, self.writer.pattern,
                                  Bounds(known, FOREVER))
        self.last = Bounds(held, held)

    def live_again(self) -> None:
        """Boot the guest that died, and let it write on."""
        self.machine.start()
        self.write_on()

    def write_on(self) -> None:
        """Let the writer go on where it was."""
        assert self.last is not None, 'it writes'
        self.writer.start(after=self.last.lowest)
        self.last = None

    def idle(self) -> None:
        """Let the guest do nothing, not even flush."""
        self.stop()

    def snapshots_hold(self) -> None:
        """Prove every snapshot beside the running guest."""
        for snapshot, bounds in self.expected.items():
            audit.snapshot_holds(self.volume, snapshot, self.writer.pattern,
                                 bounds)

    def whole(self) -> None:
        """Prove what can be proven while the guest writes on."""
        assert self.live == audit.layers(self.volume)
        recorded = self.volume.info
        assert recorded.pop('active', self.volume.name) == self.live[-1]
        # One overlay to a snapshot, in order; what is left holds the rest.
        assert [recorded.pop(s) for s in self.expected] == list(
            self.live[len(self.live) - len(self.expected):])
        assert not recorded
        metadata = {f'{self.volume.name}.{s}' for s in audit.METADATA}
        assert self.volume.files() - metadata == set(self.live)
        self.snapshots_hold()
        self.writer.write_more(5)
