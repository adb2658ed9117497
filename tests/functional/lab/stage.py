# SPDX-License-Identifier: Apache-2.0
"""One play: a folder with shares, guests and agents, and their clearing up.

A test, the demonstration and a benchmark each get a stage.  Whatever was
started on it ends with it; if something went wrong, the folder is kept
with logs, domain XML and images.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
import shutil
import uuid

import libvirt

from tests.functional.lab import guest_image
from tests.functional.lab import paths
from tests.functional.lab.agent import Agent
from tests.functional.lab.guest import Guest
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.share import Share
from tests.functional.lab.share import SmallShare
from tests.functional.lab.share import Volume


class Stage:
    """Hands out what a play needs, and clears it away.

    :param name: of the folder; also of what is kept.
    """

    def __init__(self, libvirtd: Libvirtd, name: str) -> None:
        self.libvirtd = libvirtd
        self.name = name
        self.folder = paths.RUNNING / str(os.getpid()) / name
        self.guests: list[Guest] = []
        self.agents: list[Agent] = []
        self._small: list[SmallShare] = []
        self._rabbit: Rabbit | None = None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def share(self, name: str = 'share') -> Share:
        """A share's folder."""
        return Share(self.folder / name)

    def small_share(self, size: int, name: str = 'small') -> SmallShare:
        """A share that can run full."""
        share = SmallShare(self.folder / name, size)
        self._small.append(share)
        return share

    def guest(self, *volumes: Volume, persistent: bool = True) -> Guest:
        """A guest with these volumes, not started."""
        guest = Guest(self.libvirtd, guest_image.build(), self.folder,
                      f'guest-{len(self.guests) + 1}', volumes,
                      persistent=persistent)
        self.guests.append(guest)
        return guest

    def agent(self, rabbit: Rabbit, host: str = '', **options: object
              ) -> Agent:
        """An agent with its own journal, not started.

        :param host: of its own by default, so that no request that an
            earlier agent left in the broker reaches it.
        """
        self._rabbit = rabbit
        host = host or f'host-{uuid.uuid4().hex[:12]}'
        agent = Agent(self.folder / f'agent-{len(self.agents) + 1}',
                      self.libvirtd.uri, rabbit.url, host, **options)
        self.agents.append(agent)
        return agent

    def collect(self) -> None:
        """Write down what would be gone later: live XML and logs."""
        for guest in self.guests:
            with contextlib.suppress(libvirt.libvirtError):
                xml = guest.domain.XMLDesc()
                (self.folder / f'{guest.name}.xml').write_text(xml)
        self._copy(self.libvirtd.log, 'libvirt-log')
        if self._rabbit is not None:
            self._copy(self._rabbit.log, 'rabbit-log')

    def close(self, keep: bool = False) -> Path | None:
        """End everything; where it was kept, if it was."""
        with contextlib.ExitStack() as stack:
            # Last in, first out; one failure does not stop the rest.
            stack.callback(self._leave, keep)
            for share in self._small:
                stack.callback(share.close)
            for guest in self.guests:
                stack.callback(guest.remove)
            for agent in self.agents:
                stack.callback(_end, agent)
        return paths.FAILURES / self.name if keep else None

    def _leave(self, keep: bool) -> None:
        if keep:
            place = paths.FAILURES / self.name
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            self.folder.rename(place)
        else:
            shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _copy(self, folder: Path, name: str) -> None:
        shutil.copytree(folder, self.folder / name, dirs_exist_ok=True)


def _end(agent: Agent) -> None:
    if agent.running:
        agent.kill()
