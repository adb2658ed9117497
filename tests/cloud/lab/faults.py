# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while a snapshot is taken or deleted.

Each fault strikes while :class:`.scene.Scene` holds the operation in its
midst, is healed as an operator would heal it, and leaves the guest writing.
The same faults strike upstream's driver and hooks; those of a part that
upstream does not have strike what stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import dataclass
import fcntl
import os
from pathlib import Path
import signal
import struct
import time

import libvirt

from assisted_snapshots.rpcapi.target import REPORT_TOPIC
from tests.cloud.lab import records
from tests.cloud.lab.process import Process
from tests.cloud.lab.scene import BUSY
from tests.cloud.lab.scene import Operation
from tests.cloud.lab.scene import Scene
from tests.cloud.lab.stage import WRITES
from tests.functional.lab import waiting

#: Of something that surely happens.
_SURELY = 120
#: Seconds for which a service is away when it is not restarted at once.
_AWAY = 8

_FLOCK = struct.Struct('hhqqi4x')
#: QEMU's bytes for what others may not do with an image.
_DENIED = (200, 64)

Play = Callable[[Scene], None]


@dataclass(frozen=True)
class Fault:
    """One fault; ``play`` asks for the operation, strikes and heals.

    :ivar operations: during which it can happen.
    :ivar often: whether it is played with every change; others take long.
    """

    name: str
    play: Play
    operations: tuple[Operation, ...] = tuple(Operation)
    often: bool = True


def _held(strike: Play) -> Play:
    """Strike, and heal, while the operation is held."""
    def play(scene: Scene) -> None:
        with scene.held():
            strike(scene)
    return play


def _restart(service: Callable[[Scene], Process]) -> Play:
    def strike(scene: Scene) -> None:
        service(scene).kill()
        service(scene).start()
    return _held(strike)


def _compute(scene: Scene) -> Process:
    assert scene.host.compute is not None
    return scene.host.compute


def _agent(scene: Scene) -> Process:
    """The agent; upstream, nova-compute does its work."""
    return scene.host.agent or _compute(scene)


def _cinder_volume(scene: Scene) -> Process:
    return scene.cloud.services['cinder-volume']


def _nova_compute(scene: Scene) -> None:
    _compute(scene).kill()
    scene.start_compute()


def _libvirtd(scene: Scene) -> None:
    libvirtd = scene.host.libvirtd
    assert libvirtd is not None
    libvirtd.kill()
    libvirtd.start()


def _rabbit(scene: Scene) -> None:
    assert scene.cloud.rabbit is not None
    scene.cloud.rabbit.restart()


def _database(scene: Scene) -> None:
    scene.cloud.database.stop()
    scene.cloud.database.start()


def _qemu(scene: Scene) -> None:
    """Kill QEMU; the user starts the server when it is seen to be off."""
    stage = scene.stage
    last = stage.stop()
    with scene.held():
        scene.signal_qemu(signal.SIGKILL)
        waiting.until(lambda: not _is_running(scene), 'libvirt noticing the '
                      'death of a guest', _SURELY)
    stage.project.server_becomes(stage.server.id, 'SHUTOFF')
    stage.server.start()
    scene.go_on(last)


def _hard_reboot(scene: Scene) -> None:
    with _stopped_writer(scene):
        with scene.held():
            # It may wait for the job, and so may not be waited for here.
            scene.ask_reboot()
        scene.rebooted()


def _aborted(scene: Scene) -> None:
    with scene.held():
        scene.abort_job()


def _denied(scene: Scene) -> None:
    """QEMU cannot open the overlay: somebody else has it."""
    assert scene.creates
    agent = _agent(scene)
    agent.signal(signal.SIGSTOP)
    try:
        scene.request()
        overlay = scene.stage.files.layer(scene.snapshot)
        waiting.until(overlay.exists, 'overlay', _SURELY)
    finally:
        agent.signal(signal.SIGCONT)
    with _denied_to_qemu(overlay):
        waiting.until(lambda: scene.status() != 'creating' or None,
                      'end of the creation', _SURELY)


def _api_down(scene: Scene) -> None:
    """Cinder's interface is away when the job ends, and comes back."""
    api = scene.cloud.services['cinder']
    with scene.held():
        api.kill()
    _wait_done(scene)
    time.sleep(_AWAY)
    api.start()
    scene.cloud.wait_ready()


def _agent_away(scene: Scene) -> None:
    """Who would do the work is away when it is asked for."""
    _agent(scene).kill()
    scene.request()
    time.sleep(_AWAY)
    _agent(scene).start()


def _agent_gone(scene: Scene) -> None:
    """It stays away until it is given up, or for a long time."""
    _agent(scene).kill()
    scene.request()
    scene.settle(_SURELY)
    _agent(scene).start()


def _share_full(scene: Scene) -> None:
    with _stopped_writer(scene):
        if scene.creates:
            with _full(scene):
                scene.request()
                scene.settle(_SURELY)
        else:
            with scene.held():
                with _full(scene):
                    scene.release()
                    scene.settle(_AWAY)
        _resume(scene)


def _impatient(scene: Scene) -> None:
    """A user resets the state of what has in truth been done, and deletes.

    cinder-volume dies in the midst; the job ends without it.
    """
    with scene.held():
        _cinder_volume(scene).kill()
    _wait_done(scene)
    scene.reset_state('error' if scene.creates else 'available')
    scene.delete_again()
    _cinder_volume(scene).start()


def _stale(scene: Scene) -> None:
    """nova-compute dies before its bookkeeping; then the guest is rebooted.

    A guest that starts on the layer that Nova remembers writes to a layer
    that another lies on.
    """
    with scene.held():
        _compute(scene).kill()
    _wait_done(scene)
    # So that what is lost is no matter of chance.
    scene.stage.writer.write_more(WRITES)
    with _stopped_writer(scene):
        scene.start_compute()
        scene.ask_reboot()
        scene.rebooted()


def _unheard(scene: Scene) -> None:
    """Cinder says that it is done; nova-compute and the agent are dead.

    When the guest is rebooted nobody but libvirt knows its last layer.
    """
    with scene.held():
        _compute(scene).kill()
    scene.settle(_SURELY)
    scene.stage.writer.write_more(WRITES)
    _agent(scene).kill()
    # What was sent in vain would be heard yet.
    assert scene.cloud.rabbit is not None
    scene.cloud.rabbit.control('purge_queue',
                               f'{REPORT_TOPIC}.{scene.host.name}')
    with _stopped_writer(scene):
        scene.start_compute()
        _see_stale(scene)
        scene.ask_reboot()
        scene.rebooted()
    _agent(scene).start()


def _met(scene: Scene) -> None:
    """A report and a hard reboot wait together for nova-compute."""
    compute = _compute(scene)
    with scene.held():
        compute.signal(signal.SIGSTOP)
    try:
        scene.settle(_SURELY)
        scene.stage.writer.write_more(WRITES)
        with _stopped_writer(scene):
            _see_stale(scene)
            scene.request_reboot()
            compute.signal(signal.SIGCONT)
            scene.rebooted()
    finally:
        compute.signal(signal.SIGCONT)


#: Our driver does not need Nova to take a snapshot, so Cinder may know of the
#: guest's new layer first. A deletion moves the guest only if what is below
#: has more to copy.
MOVING = (Operation.CREATE,)
AHEAD = (
    Fault('nova-compute and agent dead, then hard reboot', _unheard, MOVING),
    Fault('hard reboot of a stopped nova-compute', _met, MOVING),
)
FAULTS = (
    Fault('SIGKILL of nova-compute', _held(_nova_compute)),
    Fault('SIGKILL of cinder-volume', _restart(_cinder_volume)),
    Fault('SIGKILL of the agent', _restart(_agent)),
    Fault('SIGKILL of libvirtd', _held(_libvirtd)),
    Fault('SIGKILL of QEMU', _qemu),
    Fault('restart of RabbitMQ', _held(_rabbit)),
    Fault('restart of MariaDB', _held(_database)),
    Fault('Cinder API down when the job ends', _api_down),
    Fault('hard reboot', _hard_reboot),
    Fault('block job aborted', _aborted,
          tuple(one for one in Operation if one is not Operation.CREATE)),
    Fault('QEMU cannot open the layer', _denied, (Operation.CREATE,)),
    Fault('reset-state and second delete when it was done', _impatient),
    Fault('agent down when the request comes', _agent_away),
    Fault('agent down for long', _agent_gone, often=False),
    Fault('share full', _share_full),
    Fault('SIGKILL of nova-compute, then hard reboot', _stale),
)


def _wait_done(scene: Scene) -> None:
    def done() -> bool:
        scene.release()
        return scene.done_in_truth()
    waiting.until(done, 'end of the work', _SURELY, 0.2)


def _see_stale(scene: Scene) -> None:
    """Cinder is done, and Nova does not know the guest's last layer."""
    assert scene.status() not in BUSY
    stage = scene.stage
    known = records.mapping(stage.settings, stage.id)['data']['name']
    assert known != stage.server.chain(stage.id)[-1]


def _is_running(scene: Scene) -> bool:
    return bool(scene.stage.server.domain.isActive())


@contextmanager
def _stopped_writer(scene: Scene) -> Iterator[None]:
    """Nothing is written meanwhile; afterwards the guest goes on."""
    last = scene.stage.stop()
    yield
    scene.go_on(last)


def _resume(scene: Scene) -> None:
    """Let a guest run again that was stopped by an error of its disk."""
    domain = scene.stage.server.domain
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        domain.resume()


@contextmanager
def _full(scene: Scene) -> Iterator[None]:
    """The share has no room for anybody."""
    folder = scene.stage.files.folder
    ballast = folder / 'lost+found/full'
    with open(ballast, 'wb') as file:
        size = 1 << 30
        while size >= 4096:
            with suppress(OSError):
                os.posix_fallocate(file.fileno(),
                                   os.fstat(file.fileno()).st_size, size)
                continue
            size //= 2
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _denied_to_qemu(path: Path) -> Iterator[None]:
    """No QEMU may write to an image."""
    with open(path, 'rb') as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(
            fcntl.F_RDLCK, os.SEEK_SET, *_DENIED, 0))
        yield
