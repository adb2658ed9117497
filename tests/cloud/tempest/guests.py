# SPDX-License-Identifier: Apache-2.0
# Tempest is installed in an environment of its own only.
# mypy: disable-error-code="import-not-found"
"""Tempest's way into a guest: its agent in place of ssh.

The cloud's servers have no network.  What tempest calls a server's address
is the server's id here, and what it would send by ssh is run by the guest
agent; the commands, their order and what is expected of them are tempest's
own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import libvirt
from tempest.common import compute
from tempest.lib import exceptions
from tempest.lib.common import ssh
from tempest.scenario import manager

from tests.cloud.lab.server import BOOT_DEADLINE
from tests.cloud.lab.server import Connected
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings
from tests.functional.lab import guest_image
from tests.functional.lab.shell import GuestError
from tests.functional.lab.shell import Shell

#: What tempest's commands need and the laboratory's guest lacks.  The guest
#: lives in memory, but what tempest leaves in /mnt has to be on its disk.
PREPARE = r'''
[ -e /bin/sudo ] && exit
for applet in cut grep mke2fs sha1sum; do ln -s busybox /bin/$applet; done
mkdir -p /mnt
printf '#!/bin/sh\nexec mke2fs "$3"\n' >/bin/mkfs
printf '#!/bin/sh
echo "NAME TYPE"
for disk in /sys/block/vd*; do echo "${disk##*/}  disk"; done\n' >/bin/lsblk
printf '#!/bin/sh\nexec "$@"\n' >/bin/sudo
chmod 755 /bin/mkfs /bin/lsblk /bin/sudo
mount -t ext4 /dev/vda /mnt || {
    mke2fs /dev/vda && mount -t ext4 /dev/vda /mnt; }
'''


class Guest(Shell):
    """The guest of a server, wherever that runs."""

    def __init__(self, settings: Settings, server: str) -> None:
        self._console = (settings.data / 'instances' / server
                         / 'console.log')
        self._server = server
        super().__init__(_host_of(settings, server))

    @property
    def domain(self) -> libvirt.virDomain:
        """Its domain."""
        return self._hypervisor.connection.lookupByUUIDString(self._server)

    def booted(self) -> bool:
        """Whether its console says so."""
        return (self._console.exists()
                and guest_image.READY in self._console.read_bytes())


def _host_of(settings: Settings, server: str) -> Connected:
    for host in HOSTS:
        connected = Connected(settings, host)
        domains = connected.connection.listAllDomains()
        if server in [domain.UUIDString() for domain in domains]:
            return connected
    raise exceptions.ServerUnreachable(server_id=server)


class Client:
    """Takes the place of tempest's ssh client."""

    def __init__(self, host: str, *_: Any, **__: Any) -> None:
        folder = Path(os.environ['TEMPEST_CLOUD'])
        self._guest = Guest(Settings.load(folder), host)

    def test_connection_auth(self) -> None:
        """Wait for the guest and prepare it."""
        self._guest.wait_answers('boot', BOOT_DEADLINE)
        self._guest.run(PREPARE)

    def exec_command(self, command: str, *_: Any, **__: Any) -> str:
        """Run a command; what it printed.

        :raises SSHExecCommandFailed: it failed.
        """
        try:
            return self._guest.run(command)
        except GuestError as error:
            raise exceptions.SSHExecCommandFailed(
                command=command, exit_status=1, stderr=str(error),
                stdout='') from error


def _address(server: dict[str, Any], *_: Any, **__: Any) -> str:
    return str(server['id'])


def _no_ports(*_: Any, **__: Any) -> None:
    """A server without a network has no port for a security group."""


def reach_by_agent() -> None:
    """Let all of tempest reach guests so."""
    ssh.Client = Client
    compute.get_server_ip = _address
    manager.ScenarioTest.get_server_ip = staticmethod(_address)
    manager.ScenarioTest.create_and_add_security_group_to_server = _no_ports
