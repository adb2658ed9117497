# SPDX-License-Identifier: Apache-2.0
"""A volume on the share, as the test knows it: what it must contain.

The work is done by a client; the expectation stays on this side, so that a
client can be killed and another one asked.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.functional.nfs.lab.client import Client
from tests.functional.nfs.lab.client import Job
from tests.functional.nfs.lab.client import User

_INSIDE = 'tests.functional.nfs.inside.volumes'

MIB = 1 << 20
#: Who Cinder runs as, who QEMU runs as, and the group they share.
GROUP = 4300
CINDER = User(4200, 4200, (GROUP,))
QEMU = User(4201, 4201, (GROUP,))
STRANGER = User(4202, 4202)
FILE_MODE = 0o660

Seen = list[tuple[str, dict[str, list[int]]]]


class Share:
    """One folder of the export, mounted by clients.

    :ivar folder: as this machine sees it.
    :ivar mounted: as every client sees it.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder = folder
        self.mounted = f'/mnt/share/{folder.name}'
        self.source = source
        self._clients: list[Client] = []

    def mount(self, client: Client) -> None:
        """Mount it on one more client."""
        client.mount(self.source, self.mounted)
        self._clients.append(client)

    def close(self) -> None:
        """Unmount it everywhere."""
        for client in self._clients:
            if client.running:
                client.unmount(self.mounted)

    def opened(self, client: Client, name: str) -> Any:
        """Whether a client sees that a QEMU has a file open."""
        return client.call(f'{_INSIDE}:opened', self.mounted, name,
                           user=CINDER)

    def modes(self, client: Client) -> Any:
        """Owner, group and mode of every file, as a client sees it."""
        return client.call(f'{_INSIDE}:modes', self.mounted, user=CINDER)

    def look(self, client: Client, *names: str) -> Any:
        """Have a client look names up; it remembers those not there."""
        return client.call(f'{_INSIDE}:look', self.mounted, names,
                           user=CINDER)

    def attempt(self, client: Client, user: User) -> Any:
        """What listing it comes to for a user."""
        return client.call(f'{_INSIDE}:attempt', self.mounted, user=user)


class Volume:
    """Kind is ``raw``, ``qcow2`` or ``luks``, as in ``tests.images``."""

    def __init__(self, share: Share, kind: str, size: int = 4 * MIB,
                 name: str = 'volume-1') -> None:
        self.share = share
        self.kind = kind
        self.name = name
        self.now = bytearray(size)
        self.snapshots: dict[str, bytes] = {}

    def make(self, client: Client, user: User = CINDER) -> None:
        """Make its base."""
        self.call(client, 'make', FILE_MODE, user=user)

    def write(self, client: Client, *writes: tuple[int, int, int],
              user: User = QEMU) -> None:
        """Write (offset, length, byte), as QEMU's user."""
        self.note(*writes)
        self.call(client, 'write', writes, user=user)

    def note(self, *writes: tuple[int, int, int]) -> None:
        """Expect what somebody else writes."""
        for offset, length, byte in writes:
            self.now[offset:offset + length] = bytes([byte]) * length

    def start(self, client: Client, method: str, *arguments: Any,
              user: User = CINDER, pause: bool = False) -> Job:
        """Begin one of chain's operations.

        :param pause: have the job ask before every step.
        """
        self._expect(method, *arguments)
        return client.start(f'{_INSIDE}:operate', *self._self(), method,
                            arguments, pause=pause, user=user)

    def do(self, client: Client, method: str, *arguments: Any,
           user: User = CINDER) -> Seen:
        """One of chain's operations; the files at each of its steps."""
        found: Seen = self.start(client, method, *arguments,
                                 user=user).result()
        return found

    def clone(self, client: Client, snapshot: str, target: str,
              form: str) -> Seen:
        """Clone a snapshot to a file beside it, and compare."""
        found: Seen = self.call(client, 'clone', snapshot, target, form,
                                user=CINDER)
        seen = client.call(f'{_INSIDE}:clone_digest', self.share.mounted,
                           target,
                           'luks' if self.kind == 'luks' else form,
                           user=QEMU)
        assert seen == _digest(self.snapshots[snapshot])
        return found

    def state(self, client: Client) -> Any:
        """What a client reads of it."""
        return self.call(client, 'state', user=CINDER)

    def verify(self, client: Client) -> list[str]:
        """See on a client that all of it reads back; returns the layers."""
        seen = self.call(client, 'contents', user=CINDER)
        wanted = {who: _digest(held) for who, held
                  in {**self.snapshots, '': bytes(self.now)}.items()}
        assert seen['content'] == wanted
        assert seen['found'] == []
        layers: list[str] = seen['layers']
        return layers

    def call(self, client: Client, function: str, *arguments: Any,
             user: User, **keywords: Any) -> Any:
        """Run one of ``inside.volumes`` on this volume."""
        return client.call(f'{_INSIDE}:{function}', *self._self(),
                           *arguments, user=user, **keywords)

    def _self(self) -> tuple[str, str, str, int]:
        return self.share.mounted, self.name, self.kind, len(self.now)

    def _expect(self, method: str, *arguments: Any) -> None:
        """Keep in mind what an operation will have done."""
        if method == 'create':
            self.snapshots[arguments[0]] = bytes(self.now)
        elif method == 'delete':
            self.snapshots.pop(arguments[0], None)
        elif method == 'revert':
            kept = self.snapshots[arguments[0]]
            self.now[:len(kept)] = kept
            self.now[len(kept):] = bytes(len(self.now) - len(kept))
        elif method == 'extend':
            self.now += bytes(arguments[0] - len(self.now))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
