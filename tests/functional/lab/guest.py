# SPDX-License-Identifier: Apache-2.0
"""A real guest with its volumes, its guest agent and its writers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import signal
import time
import uuid

import libvirt

from tests.functional.lab import domain_xml
from tests.functional.lab import guest_image
from tests.functional.lab import waiting
from tests.functional.lab.content import Bounds
from tests.functional.lab.content import Pattern
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.share import Volume
from tests.functional.lab.shell import GuestError
from tests.functional.lab.shell import Shell

__all__ = ['Guest', 'GuestError', 'Moment', 'Progress', 'Writer']

BOOT_DEADLINE = 120
#: Seconds that the guest itself waits for a record; then it is asked again.
WAIT = 5


@dataclass(frozen=True)
class Progress:
    """What a writer says of itself.

    :ivar acknowledged: last record that the disk confirmed.
    :ivar submitted: last record that was begun.
    :ivar longest_gap: longest time between two confirmations since the
        start or the last reset, in seconds of the guest's clock: that
        stands still while the guest is paused.
    :ivar errors: writes the disk refused; they were repeated.
    """

    acknowledged: int
    submitted: int
    longest_gap: float
    errors: int
    running: bool


class Guest(Shell):
    """One guest; not started by making it.

    :param persistent: define it, so that it can be shut off and started.
    """

    def __init__(self, libvirtd: Libvirtd, image: guest_image.GuestImage,
                 folder: Path, name: str, volumes: Sequence[Volume], *,
                 persistent: bool = True) -> None:
        super().__init__(libvirtd)
        self._libvirtd = libvirtd
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.volumes = tuple(volumes)
        self.console = folder / f'{name}.console.log'
        self.writers: list[Writer] = []
        self.boot_seconds = 0.0
        self._console_mark = 0
        self._image = image
        self._persistent = persistent

    @property
    def domain(self) -> libvirt.virDomain:
        """The libvirt domain, through a connection that is alive."""
        return self._libvirtd.connection.lookupByName(self.name)

    @property
    def pid(self) -> int:
        """Process id of its QEMU."""
        return self._libvirtd.guest_pid(self.name)

    def xml(self) -> str:
        """The domain's XML, made from the volumes as they are now."""
        return domain_xml.domain(domain_xml.Spec(
            self.name, self.uuid, self._image, self.console, self.volumes))

    def define(self) -> None:
        """Make a persistent domain known, leave it shut off."""
        for volume in self.volumes:
            if volume.secret is not None:
                self._libvirtd.set_secret(volume.secret_uuid, volume.id,
                                          volume.secret)
        if self._persistent:
            self._libvirtd.connection.defineXML(self.xml())

    def start(self, *, paused: bool = False) -> None:
        """Boot; returns when the guest agent answers (unless paused).

        A persistent domain boots as it is defined, a transient one on its
        volumes' active layers.
        """
        begun = time.monotonic()
        self._console_mark = self._console_size()
        if not self._known():
            self.define()
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        if self._persistent:
            self.domain.createWithFlags(flags)
        else:
            self._libvirtd.connection.createXML(self.xml(), flags)
        if not paused:
            self.wait_ready()
        self.boot_seconds = time.monotonic() - begun

    def wait_ready(self) -> None:
        """Wait until the guest agent answers."""
        self.wait_answers(f'boot of {self.name}', BOOT_DEADLINE)

    def destroy(self) -> None:
        """Pull the plug; a persistent domain stays defined."""
        if self.active():
            self.domain.destroy()

    def remove(self) -> None:
        """Pull the plug and forget the domain and its secrets."""
        self.destroy()
        if self._known():
            self.domain.undefine()
        for volume in self.volumes:
            if volume.secret is not None and self._has_secret(volume):
                self._libvirtd.remove_secret(volume.secret_uuid)

    def kill(self) -> None:
        """SIGKILL its QEMU and wait until libvirt has noticed."""
        os.kill(self.pid, signal.SIGKILL)
        waiting.until(lambda: not self.active(),
                      f'libvirt noticing the death of {self.name}', 30)

    def suspend(self) -> None:
        """Pause its processors."""
        self.domain.suspend()

    def resume(self) -> None:
        """Let them run again."""
        self.domain.resume()

    def active(self) -> bool:
        """Whether a QEMU runs it (paused counts)."""
        try:
            return bool(self.domain.isActive())
        except libvirt.libvirtError as error:
            # A transient domain is gone when it ends.
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            return False

    def chain(self, volume: Volume) -> tuple[str, ...]:
        """The volume's layers as libvirt shows them, base first."""
        return domain_xml.chains(self.domain.XMLDesc())[volume.id]

    def booted(self) -> bool:
        """Whether its console says so; a guest that ended never will."""
        if not self.active():
            raise GuestError('boot', -1, self.console.read_text(
                errors='replace')[-500:])
        return guest_image.READY in self.console.read_bytes()[
            self._console_mark:]

    def device(self, volume: Volume) -> str:
        """Device name of a volume, in libvirt and in the guest."""
        return domain_xml.target(self.volumes.index(volume))

    def mount(self, volume: Volume, folder: str = '/data') -> None:
        """Mount a volume's ext4 in the guest."""
        self.run(f'mkdir -p {folder} && '
                 f'mount -t ext4 /dev/{self.device(volume)} {folder}')

    def writer(self, volume: Volume, *, blocks: int = 4096,
               delay: float = 0, file: str = '') -> Writer:
        """A writer for a volume, not started.

        :param blocks: how many 4 KiB blocks it goes around in.
        :param delay: seconds to rest after every record.
        :param file: write this file in a mounted file system instead.
        """
        writer = Writer(self, file or f'/dev/{self.device(volume)}',
                        volume.id, blocks, delay)
        self.writers.append(writer)
        return writer

    def _known(self) -> bool:
        try:
            return bool(self.domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            return False

    def _has_secret(self, volume: Volume) -> bool:
        return volume.secret_uuid in self._libvirtd.connection.listSecrets()

    def _console_size(self) -> int:
        return self.console.stat().st_size if self.console.exists() else 0


class Writer:
    """The verifying writer on one volume of a guest.

    :ivar pattern: what it writes, for :mod:`.content`.
    """

    def __init__(self, guest: Shell, target: str, stream: str, blocks: int,
                 delay: float) -> None:
        self.pattern = Pattern.of(stream, blocks)
        self._guest = guest
        self._target = target
        self._status = '/run/pw.' + target.strip('/').replace('/', '.')
        self._delay = delay

    def start(self, after: int = 0) -> None:
        """Begin, or go on with the record that follows ``after``."""
        self._guest.run(
            f'rm -f {self._status}; pwriter run {self._target} '
            f'{self._status} {self.pattern.stream} {self.pattern.blocks} '
            f'{round(self._delay * 1e6)} {after + 1} '
            f'</dev/null >{self._status}.out 2>&1 & '
            f'while [ ! -s {self._status} ]; do '
            f'[ ! -s {self._status}.out ] || {{ cat {self._status}.out; '
            f'exit 1; }}; done')

    def progress(self) -> Progress:
        """How far it is, now."""
        return self._tell('show')

    def reset_gap(self) -> None:
        """Forget the longest gap so far."""
        self._tell('reset')

    def stop(self) -> Progress:
        """End after the record in flight: all that was begun is done."""
        return self._tell('stop')

    def wait_for(self, record: int, seconds: float = 120) -> Progress:
        """Wait until a record is acknowledged."""
        def reached() -> Progress | None:
            progress = self._tell('wait', f' {record} {WAIT}')
            return progress if progress.acknowledged >= record else None
        return waiting.until(reached, f'record {record}', seconds)

    def write_more(self, records: int) -> Progress:
        """Wait until so many more records are acknowledged."""
        return self.wait_for(self.progress().acknowledged + records)

    def rate(self, seconds: float = 1) -> float:
        """Records per second, measured for this long."""
        begun, before = time.monotonic(), self.progress()
        time.sleep(seconds)
        after = self.progress()
        return ((after.acknowledged - before.acknowledged)
                / (time.monotonic() - begun))

    def _tell(self, verb: str, arguments: str = '') -> Progress:
        words = self._guest.run(
            f'pwriter {verb} {self._status}{arguments}').split()
        acknowledged, submitted, gap, errors, running = map(int, words)
        return Progress(acknowledged, submitted, gap / 1e6, errors,
                        bool(running))


class Moment:
    """Bounds of what a writer had written while something happened.

    ``with Moment(writer) as moment: take_a_snapshot()``; afterwards
    ``moment.bounds`` says where the snapshot must end.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._lowest = 0
        self._bounds: Bounds | None = None

    def __enter__(self) -> Moment:
        self._lowest = self._writer.progress().acknowledged
        return self

    def __exit__(self, *_: object) -> None:
        self._bounds = Bounds(self._lowest,
                              self._writer.progress().submitted)

    @property
    def bounds(self) -> Bounds:
        """Lowest and highest possible last record."""
        assert self._bounds is not None, 'the moment has not passed'
        return self._bounds
