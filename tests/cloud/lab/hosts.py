# SPDX-License-Identifier: Apache-2.0
"""The compute hosts: each believes to be a machine of its own.

A host has its own mounts and its own name, made by a process that does
nothing but hold them; its libvirtd and its services run inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import subprocess
import uuid

from tests.cloud.lab.process import environment
from tests.cloud.lab.process import Process
from tests.cloud.lab.settings import Settings
from tests.functional.lab import libvirtd
from tests.functional.lab import ports
from tests.functional.lab import waiting

#: Mounts made in the host reach its libvirtd, and nothing else.  The folder
#: of the mounts is the host's own: Nova removes a place that it has
#: unmounted, and with it the kernel would take the mount of another host.
HOLD = ('mount --make-rshared / && mount -t tmpfs none "$2" && '
        'hostname "$1" && exec sleep infinity')
MIGRATION_PORTS = 10


class HostLibvirtd(libvirtd.Libvirtd):
    """The libvirtd of a host, with an identity of its own.

    :param inbound: address that guests are migrated to by.
    :param shared: folders that every host sees alike.
    """

    def __init__(self, settings: Settings, enter: Sequence[str],
                 inbound: str, shared: Sequence[Path]) -> None:
        self._enter = enter
        self._settings = settings
        super().__init__()
        first = ports.free(1)[0]
        with open(self.root / 'etc/libvirtd.conf', 'a') as conf:
            conf.write(f'host_uuid = "{uuid.uuid4()}"\n')
        folders = ', '.join(f'"{folder}"' for folder in shared)
        with open(self.root / 'etc/qemu.conf', 'a') as conf:
            conf.write(f'migration_address = "{inbound}"\n'
                       f'migration_port_min = {first}\n'
                       f'migration_port_max = {first + MIGRATION_PORTS}\n'
                       f'shared_filesystems = [ {folders} ]\n')

    def _command(self) -> list[str]:
        return [*self._enter, *super()._command()]

    def _environment(self) -> dict[str, str]:
        return environment(self._settings, **super()._environment())


class ComputeHost:
    """One compute host; not started by making it.

    :ivar name: its host name, in Nova too.
    :ivar inbound: its address for live migration.
    """

    def __init__(self, settings: Settings, name: str, inbound: str,
                 sockets: Path) -> None:
        self.name = name
        self.inbound = inbound
        self.libvirtd: HostLibvirtd | None = None
        self.compute: Process | None = None
        self.agent: Process | None = None
        self._settings = settings
        self._sockets = sockets
        self._holder = Process(settings, name, [
            'unshare', '--mount', '--uts', '--propagation', 'private',
            'sh', '-c', HOLD, 'sh', name, settings.mounts])

    @property
    def enter(self) -> list[str]:
        """Words that let a command run in this host."""
        return ['nsenter', '--mount', '--uts', '--target',
                str(self._holder.pid), '--']

    @property
    def socket(self) -> Path:
        """Where its libvirtd is reached, in a short path."""
        return self._sockets / self.inbound / 'libvirt-sock'

    def start(self) -> None:
        """Make the host and start its libvirtd."""
        data = self._settings.data
        mounts = self._settings.mounts
        # libvirt forgets a shared file system that is not there yet.
        mounts.mkdir(exist_ok=True)
        self._holder.start()
        waiting.until(self._is_held, f'host {self.name}', 10)
        self.libvirtd = HostLibvirtd(
            self._settings, self.enter, self.inbound,
            [data / 'instances', mounts])
        (self._sockets / self.inbound).symlink_to(self.libvirtd.root / 'sock')
        self.libvirtd.start()

    @property
    def services(self) -> list[Process]:
        """What runs here beside libvirtd, in the order of its start."""
        return [service for service in (self.agent, self.compute) if service]

    def start_services(self) -> None:
        """Start the agent and nova-compute, which needs the rest of Nova."""
        settings = self._settings
        hooks = settings.has_hooks(self.name)
        if hooks:
            self.agent = Process(
                settings, f'agent-{self.name}',
                ['assisted-snapshot-agent', '--config-file',
                 settings.config(f'agent-{self.name}')], enter=self.enter)
        self.compute = Process(
            settings, f'nova-{self.name}',
            ['nova-compute-assisted' if hooks else 'nova-compute',
             '--config-file', settings.config(self.name)], enter=self.enter,
            variables={'OS_NOVA_DISABLE_EVENTLET_PATCHING':
                       str(self.name not in settings.eventlet).lower()})
        for service in self.services:
            service.start()

    def stop(self) -> None:
        """End its guests, its libvirtd and the host itself."""
        for service in reversed(self.services):
            service.stop()
        if self.libvirtd is not None:
            self.libvirtd.stop()
        self._holder.kill()

    def _is_held(self) -> bool:
        self._holder.alive()
        done = subprocess.run([*self.enter, 'hostname'], check=False,
                              capture_output=True, text=True)
        return done.stdout.strip() == self.name
