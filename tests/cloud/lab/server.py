# SPDX-License-Identifier: Apache-2.0
"""A server of the cloud, and its guest as the laboratory sees it."""

from __future__ import annotations

from pathlib import Path

import libvirt

from tests.cloud.lab.project import Project
from tests.cloud.lab.settings import Settings
from tests.functional.lab import domain_xml
from tests.functional.lab import guest_image
from tests.functional.lab.guest import Writer
from tests.functional.lab.libvirtd import alive
from tests.functional.lab.shell import Shell

BOOT_DEADLINE = 180
#: As much of a serial as virtio has room for.
SERIAL = 20


class Connected:
    """The libvirtd of a compute host, whoever started it.

    :ivar pid: another number for every libvirtd that has been met.
    """

    def __init__(self, settings: Settings, host: str) -> None:
        self.pid = 0
        self._uri = f'qemu+unix:///system?socket={settings.found[host]}'
        self._connection: libvirt.virConnect | None = None

    @property
    def connection(self) -> libvirt.virConnect:
        """A connection that is alive."""
        if self._connection is None or not alive(self._connection):
            self._connection = libvirt.open(self._uri)
            self.pid += 1
        return self._connection


class Server(Shell):
    """One server with the laboratory's guest in it.

    :ivar id: Nova's.
    """

    def __init__(self, project: Project, settings: Settings, host: str,
                 server: str) -> None:
        super().__init__(Connected(settings, host))
        self.id = server
        self._has_booted = False
        self._project = project
        self._settings = settings

    @classmethod
    def boot(cls, project: Project, settings: Settings, host: str,
             *volumes: str) -> Server:
        """Boot a new one on a host; returns when its guest answers."""
        server = cls(project, settings, host,
                     project.server('guest', host, *volumes))
        server.wait_ready()
        return server

    def migrate_live(self, host: str) -> None:
        """Move it to another host while it runs."""
        self._project.migrate_live(self.id, host)
        self.moved(host)
        self._has_booted = True

    def moved(self, host: str) -> None:
        """Look for its guest on another host from now on."""
        self._hypervisor = Connected(self._settings, host)
        self._served_by = 0

    @property
    def domain(self) -> libvirt.virDomain:
        """Its domain."""
        return self._hypervisor.connection.lookupByUUIDString(self.id)

    @property
    def console(self) -> Path:
        """What its serial console said since it was started."""
        return self._settings.data / 'instances' / self.id / 'console.log'

    def booted(self) -> bool:
        """Whether its console says so; a new QEMU begins it anew."""
        return self._has_booted or (
            self.console.exists()
            and guest_image.READY in self.console.read_bytes())

    def wait_ready(self) -> None:
        """Wait until its guest agent answers, also after a reboot."""
        self._has_booted = False
        self.wait_answers(f'boot of {self.id}', BOOT_DEADLINE)

    def chain(self, volume: str) -> tuple[str, ...]:
        """The volume's layers as libvirt shows them, base first."""
        return domain_xml.chains(self.domain.XMLDesc())[volume]

    def attach(self, volume: str) -> None:
        """Attach a volume and wait until the guest sees it."""
        self._project.attach(self.id, volume)
        self.device(volume)

    def detach(self, volume: str) -> None:
        """Detach a volume."""
        self._project.detach(self.id, volume)

    def device(self, volume: str) -> str:
        """The volume's device in the guest, as soon as it is there."""
        return self.run(
            'while :; do for disk in /sys/block/vd*; do '
            f'case $(cat $disk/serial) in {volume[:SERIAL]}) '
            'echo /dev/${disk##*/}; exit;; esac; done; done').strip()

    def writer(self, volume: str, blocks: int, delay: float) -> Writer:
        """The verifying writer for a volume, not started."""
        return Writer(self, self.device(volume), volume, blocks, delay)

    def stop_and_start(self) -> None:
        """Shut it off and start it again."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Shut it off."""
        self._project.act(self.id, 'SHUTOFF', **{'os-stop': None})

    def start(self) -> None:
        """Start it again."""
        self._project.act(self.id, 'ACTIVE', **{'os-start': None})
        self.wait_ready()

    def reboot(self) -> None:
        """Reboot it hard: Nova makes its domain anew."""
        self._project.act(self.id, 'ACTIVE', reboot={'type': 'HARD'})
        self.wait_ready()
