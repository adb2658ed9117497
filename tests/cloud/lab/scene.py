# SPDX-License-Identifier: Apache-2.0
"""One operation on a snapshot that is surely in its midst.

No fault is worth anything if it strikes before or after.  So whoever would
finish the operation is held: QEMU by SIGSTOP where a snapshot is taken, the
block job by a limit of its speed where one is deleted; and that the moment
has come is seen, not guessed: libvirt waits for QEMU, or the job has begun
and not ended.

This module knows nothing of faults and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
import enum
import itertools
import os
import re
import signal
import time
from typing import Any
from xml.etree import ElementTree

import libvirt

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient
from tests.cloud.lab.api import HttpError
from tests.cloud.lab.api import NotFound
from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.hosts import ComputeHost
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.stage import Stage
from tests.cloud.lab.stage import WRITES
from tests.functional.lab import content
from tests.functional.lab import waiting
from tests.functional.lab.content import Bounds
from tests.functional.lab.content import ContentError
from tests.functional.lab.images import ImageToolError

#: What a merge has to copy of a layer, in MiB.
BALLAST = 48
#: Where each layer has it, in MiB, behind what the writer writes to: what a
#: layer above has too is not copied.
_PLACES = itertools.cycle(range(64, 1024 - BALLAST, BALLAST))
#: Bytes per second: a job that is held does not come far.
_HELD = 256 * 1024
_DEADLINE = 240
#: Seconds between two looks at what Cinder says.
_LOOK = 1
#: Seconds that an agent may take to answer.
_ANSWER = 3.0
#: Bytes of a log.
_LATELY = 1 << 20
#: Of a snapshot that something is still done with.
BUSY = ('creating', 'deleting')
#: The last is Nova's word that it has failed: Cinder's driver, which waits for
#: the word, says in a moment what the snapshot is then. Until it does the user
#: may not ask again. Twice as many seconds as the driver ever takes.
_FAILED, _MOMENT = 'error_deleting', 20


class Operation(enum.Enum):
    """What is done to a snapshot, and to which."""

    CREATE = 'create'
    NEWEST = 'delete newest'
    MIDDLE = 'delete middle'
    OLDEST = 'delete oldest'
    ONLY = 'delete only'

    def victim(self, snapshots: list[str]) -> str:
        """The one of a volume's snapshots that goes, oldest first."""
        return {Operation.NEWEST: snapshots[-1],
                Operation.MIDDLE: snapshots[len(snapshots) // 2],
                Operation.OLDEST: snapshots[0],
                Operation.ONLY: snapshots[0]}[self]

    @property
    def needs(self) -> int:
        """How many snapshots there are before."""
        return {Operation.CREATE: 0, Operation.ONLY: 1}.get(self, 3)


class NeverBegan(AssertionError):
    """The operation was over, or refused, or could not be held."""

    message = '{what}: nothing was held, and the snapshot is {status}'

    def __init__(self, what: str, status: str) -> None:
        super().__init__(self.message.format(what=what, status=status))


@dataclass
class Scene:
    """An operation, from its request to its end.

    :ivar snapshot: the one that is taken or deleted.
    :ivar asked_again: what the user did because it had failed.
    :ivar lost: what a guest that was booted anew did not find.
    """

    cloud: Cloud
    stage: Stage
    operation: Operation
    snapshot: str = ''
    asked_again: list[str] = field(default_factory=list)
    lost: str = ''
    _qemu: int = 0
    _device: str = ''
    _lowest: int = 0
    _agent: AgentClient | None = None

    @property
    def host(self) -> ComputeHost:
        """Where the guest is."""
        return self.cloud.hosts[HOSTS[0]]

    @property
    def creates(self) -> bool:
        """Whether a snapshot is taken rather than deleted."""
        return self.operation is Operation.CREATE

    # Before -----------------------------------------------------------------

    def prepare(self) -> None:
        """Have as many snapshots as the operation needs, and much to copy."""
        stage = self.stage
        while len(stage.snapshots) < self.operation.needs:
            self.load()
            stage.take()
        if self.host.agent is not None:
            # It sees to it that the speed is what it was asked for.
            url = self.cloud.settings.found['rabbit']
            self._agent = AgentClient(transport.make(url=url),
                                      self.host.name, _ANSWER)
        self._qemu = self.qemu()
        self._device = _target(stage.server.domain.XMLDesc(), stage.id)
        if self.operation is Operation.ONLY:
            self._keep_one()
        self.load()
        self._lowest = stage.writer.write_more(WRITES).acknowledged

    def _keep_one(self) -> None:
        """Delete all snapshots but the newest, no job being held."""
        for one in [*self.stage.snapshots][:-1]:
            self.snapshot = one
            self.stage.project.request_deletion(self.snapshot)
            status = self.settle(_DEADLINE)
            assert status == 'gone', f'{self.snapshot} is {status}'
            del self.stage.snapshots[self.snapshot]

    def load(self) -> None:
        """Let the guest fill its last layer with zeros that take room."""
        device = self.stage.server.device(self.stage.id)
        self.stage.server.run(
            f'dd if=/dev/zero of={device} bs=1M seek={next(_PLACES)} '
            f'count={BALLAST} conv=notrunc')

    def qemu(self) -> int:
        """Process id of the guest's QEMU."""
        libvirtd = self.host.libvirtd
        assert libvirtd is not None
        return libvirtd.guest_pid(self.stage.server.domain.name())

    # The request ------------------------------------------------------------

    def request(self) -> None:
        """Ask for it, as a user does."""
        stage = self.stage
        if self.creates:
            self.snapshot = stage.project.request_snapshot(stage.id)
        else:
            self.snapshot = self.operation.victim([*stage.snapshots])
            stage.project.request_deletion(self.snapshot)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The operation is asked for and goes on only afterwards."""
        if self.creates:
            self.signal_qemu(signal.SIGSTOP)
            try:
                self.request()
                self._wait_in_midst(self._libvirt_waits)
                yield
            finally:
                self.signal_qemu(signal.SIGCONT)
            return
        self.request()
        self._wait_in_midst(self._job_held)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let a job that is held go on, if there is one."""
        # Either may have been killed, and the job may just be ending.
        with suppress(errors.AgentError):
            if self._agent is not None:
                for job in self._agent.list_jobs(self.stage.id, True):
                    self._agent.set_bandwidth(job.id, 0)
        with suppress(libvirt.libvirtError):
            if self.job():
                self.stage.server.domain.blockJobSetSpeed(self._device, 0)

    def signal_qemu(self, number: signal.Signals) -> None:
        """Signal the QEMU that the guest had in the beginning."""
        with suppress(ProcessLookupError):
            os.kill(self._qemu, number)

    def job(self) -> dict[str, Any]:
        """The block job of the volume's disk, empty if there is none."""
        return self.stage.server.domain.blockJobInfo(self._device) or {}

    def abort_job(self) -> None:
        """Abort the block job behind everybody's back."""
        self.stage.server.domain.blockJobAbort(self._device)

    def done_in_truth(self) -> bool:
        """Whether the guest's disk shows that it has been done."""
        live = self.stage.server.chain(self.stage.id)
        name = f'{self.stage.files.name}.{self.snapshot}'
        if self.creates:
            return live[-1] == name
        return not self.job() and len(live) <= len(self.stage.snapshots)

    def _wait_in_midst(self, held: Any) -> None:
        look = time.monotonic()

        def reached() -> bool:
            nonlocal look
            if held():
                return True
            # Asking Cinder takes longer than some jobs do.
            if time.monotonic() > look:
                status = self.status()
                if status not in BUSY:
                    raise NeverBegan(self.operation.value, status)
                look = time.monotonic() + _LOOK
            return False
        try:
            waiting.until(reached, f'{self.operation.value} in its midst',
                          _DEADLINE, 0.005)
        except waiting.Late as late:
            raise NeverBegan(self.operation.value, self.status()) from late

    def _libvirt_waits(self) -> bool:
        """Whether a snapshot is being taken, and QEMU does not answer.

        A mere question to QEMU would be called OCCUPIED.  Nova as it is
        released has the guest freeze its file systems first, which libvirt
        does not show; but its log shows what it asked libvirt for.
        """
        overlay = self.stage.files.layer(self.snapshot)
        if not overlay.exists():
            return False
        state = self.stage.server.domain.controlInfo()[0]
        return state == libvirt.VIR_DOMAIN_CONTROL_JOB or self._asked_by_nova(
            overlay.name)

    def _asked_by_nova(self, overlay: str) -> bool:
        assert self.host.compute is not None
        with open(self.host.compute.log, 'rb') as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LATELY))
            found = re.search(rf'<source file="[^"]*{overlay}"'.encode(),
                              log.read())
        if found:
            # It was written before the call.
            time.sleep(1)
        return bool(found)

    def _job_held(self) -> bool:
        job = self.job()
        if not job:
            return False
        self.stage.server.domain.blockJobSetSpeed(
            self._device, _HELD,
            libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)
        job = self.job()
        return bool(job) and job['cur'] < job['end']

    def start_compute(self) -> None:
        """Start nova-compute; returns when it takes requests.

        What it is asked for before, its own start undoes.
        """
        def heard() -> str:
            (found,) = self.cloud.api.compute.get(
                f'/os-services?binary=nova-compute&host={self.host.name}'
            )['services']
            return str(found['updated_at'])
        assert self.host.compute is not None
        before = heard()
        self.host.compute.start()
        waiting.until(lambda: heard() != before, 'nova-compute being ready',
                      _DEADLINE, 0.5)

    def request_reboot(self) -> None:
        """Ask for a hard reboot."""
        self.cloud.api.compute.post(
            f'/servers/{self.stage.server.id}/action',
            {'reboot': {'type': 'HARD'}})

    def ask_reboot(self) -> None:
        """Ask for a hard reboot; returns when nova-compute is about it."""
        self.request_reboot()
        compute, server = self.cloud.api.compute, self.stage.server.id
        waiting.until(lambda: compute.get(f'/servers/{server}')['server'][
            'OS-EXT-STS:task_state'] == 'reboot_started_hard',
            'a hard reboot being begun', _DEADLINE)

    def rebooted(self) -> None:
        """Wait until the server has been, and see that it was."""
        server = self.stage.server
        self.stage.project.server_becomes(server.id, 'ACTIVE')
        server.wait_ready()
        assert self.qemu() != self._qemu, 'the guest was not rebooted'

    def go_on(self, last: int) -> None:
        """Write on in a guest that was booted anew.

        What it lost is looked for before: the writer goes around, and would
        soon have written over every trace.  What a job has changed QEMU may
        have in its memory only, until the guest flushes its disk.
        """
        waiting.until(lambda: not self.job(), 'end of the job', _DEADLINE)
        device = self.stage.server.device(self.stage.id)
        self.stage.server.run(
            f'dd if=/dev/zero of={device} count=0 conv=notrunc,fsync')
        try:
            self.prove_guest(last)
        except (ContentError, ImageToolError) as exc:
            self.lost = str(exc)
        self.stage.go_on(last)

    def prove_guest(self, last: int) -> None:
        """Prove what a guest reads that does not write: all that it wrote.

        Its layer is the one that QEMU has: what is still being done may
        not be in the records yet. It may be the only one and yet an overlay,
        which everything below has been pulled into.
        """
        stage = self.stage
        active = stage.server.chain(stage.id)[-1]
        content.prove(stage.files.folder / active,
                      stage.files.format if active == stage.files.name
                      else 'qcow2', stage.writer.pattern, Bounds(last, last))

    # The end ----------------------------------------------------------------

    def status(self) -> str:
        """The snapshot's status; ``gone`` if there is none any more."""
        try:
            found = self.stage.project.api.volume.get(
                f'/snapshots/{self.snapshot}')
        except NotFound:
            return 'gone'
        return str(found['snapshot']['status'])

    def settle(self, seconds: float) -> str:
        """Wait until nothing is done with the snapshot; its status.

        Whatever is begun again meanwhile is not held.
        """
        failed = 0.0

        def ended() -> bool:
            nonlocal failed
            self.release()
            status = self.status()
            if status != _FAILED:
                failed = 0.0
                return status not in BUSY
            failed = failed or time.monotonic()
            return time.monotonic() - failed > _MOMENT
        with suppress(waiting.Late):
            waiting.until(ended, 'end of the operation', seconds, 0.2)
        return self.status()

    def conclude(self, seconds: float) -> str:
        """Let the user ask again, at most once, where it has failed.

        A snapshot that was not taken is deleted, one that was not deleted
        is deleted again.  Returns the last status.
        """
        status = self.settle(seconds)
        wanted = ('available', 'gone') if self.creates else ('gone',)
        if status not in (*wanted, *BUSY, _FAILED) and not self.asked_again:
            self.delete_again()
            status = self.settle(seconds)
        self._note(status)
        return status

    def delete_again(self) -> None:
        """Let the user delete the snapshot once more."""
        self.asked_again.append('delete')
        with suppress(HttpError):
            self.stage.project.request_deletion(self.snapshot)

    def reset_state(self, status: str) -> None:
        """Let the user, an administrator, set the snapshot's status."""
        self.asked_again.append('reset-state')
        self.stage.project.api.volume.post(
            f'/snapshots/{self.snapshot}/action',
            {'os-reset_status': {'status': status}})

    def _note(self, status: str) -> None:
        """Write down what there has to be now."""
        known = self.stage.snapshots
        if self.creates and status == 'available':
            known[self.snapshot] = Bounds(
                self._lowest, self.stage.writer.progress().submitted)
        elif status == 'gone':
            known.pop(self.snapshot, None)


def _target(xml: str, volume: str) -> str:
    """What libvirt calls the disk of a volume."""
    disks = ElementTree.fromstring(xml)  # noqa: S314 - our own libvirtd's
    (found,) = [disk.find('target') for disk in disks.iterfind(
        'devices/disk') if disk.findtext('serial') == volume]
    assert found is not None
    return str(found.get('dev'))


@contextmanager
def certain(cloud: Cloud) -> Iterator[None]:
    """Cinder's backend works so that every moment is certain.

    A merge is slow from its beginning, and a guest that is held is not
    asked to freeze its file systems.  Upstream's driver knows no such
    options, and does not mind them.
    """
    path = cloud.settings.config('cinder')
    before = path.read_text()
    path.write_text(before.replace(
        '[nfs]\n', f'[nfs]\nassisted_bandwidth = {_HELD}\n'
                   'assisted_quiesce = off\n'))
    _renew(cloud)
    yield
    path.write_text(before)
    _renew(cloud)


def _renew(cloud: Cloud) -> None:
    cloud.services['cinder-volume'].stop()
    cloud.start('cinder-volume')
    cloud.wait_ready()
