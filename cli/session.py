# SPDX-License-Identifier: Apache-2.0
"""The share and the agent that one command works with.

Everything is made when it is first needed: a command on a share alone never
imports oslo.messaging, and one that only talks to the agent needs no share.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import getpass
from pathlib import Path
import socket
from typing import TextIO
from typing import TYPE_CHECKING

from assisted_snapshots.chain import names
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cli import errors
from assisted_snapshots.cli.progress import Meter
from assisted_snapshots.cli.view import Attachment
from assisted_snapshots.rpcapi import errors as agent_errors

if TYPE_CHECKING:
    from assisted_snapshots.chain.operations import Operations
    from assisted_snapshots.chain.qemu_img import Secret
    from assisted_snapshots.rpcapi.client import AgentClient

_PREFIX = 'volume-'


class Session:
    """What the global options name."""

    def __init__(self, options: argparse.Namespace, stdin: TextIO,
                 stderr: TextIO) -> None:
        self._options = options
        self._stdin = stdin
        self._stderr = stderr
        self._client: AgentClient | None = None
        self._close: list[Callable[[], None]] = []

    @property
    def host(self) -> str:
        """The agent's host."""
        return self._options.host or socket.gethostname()

    @property
    def has_agent(self) -> bool:
        """True where an agent may be asked."""
        return bool(self._options.transport_url)

    @property
    def folder(self) -> Path:
        """The share's folder."""
        share = self._options.share
        if not share:
            raise errors.OptionMissing(
                why='this works on the files of a share', option='--share',
                variable='ASSISTED_SNAPSHOT_SHARE')
        folder = Path(share)
        if not folder.is_dir():
            raise errors.NotAFolder(share=share, reason='is not a folder')
        return folder.absolute()

    def files(self, volume: str) -> names.VolumeFiles:
        """Return the files of a volume given by file name or by id."""
        name = names.check_name('volume', volume)
        folder = self.folder
        if not name.startswith(_PREFIX) and not (folder / name).exists():
            name = _PREFIX + name
        return names.VolumeFiles(folder, name)

    def volume_id(self, volume: str) -> str:
        """Return the id of a volume given by file name or by id."""
        return names.check_name('volume', volume).removeprefix(_PREFIX)

    @property
    def client(self) -> AgentClient:
        """The agent's client."""
        if self._client is None:
            if not self.has_agent:
                raise errors.OptionMissing(
                    why='this asks the agent', option='--transport-url',
                    variable='ASSISTED_SNAPSHOT_TRANSPORT_URL')
            from assisted_snapshots.rpcapi import client
            from assisted_snapshots.rpcapi import transport
            made = transport.make(url=self._options.transport_url)
            self._close.append(made.cleanup)
            self._client = client.AgentClient(made, self.host)
        return self._client

    def attachment(self, files: names.VolumeFiles) -> Attachment | None:
        """Ask the agent which guest has a volume; None if none has."""
        if not self.has_agent:
            return None
        try:
            live = self.client.get_chain(files.id)
        except agent_errors.VolumeNotFound:
            return None
        return Attachment(self.host, live.domain, live.device, live.running,
                          live.names, live.job_id)

    def meter(self, title: str, quiet: bool = False) -> Meter:
        """Return a progress display: a bar only on a terminal."""
        return Meter(self._stderr, title, bar=self._stderr.isatty(),
                     quiet=quiet)

    def warn(self, text: str) -> None:
        """Say something on stderr that does not stop the command."""
        print(f'warning: {text}', file=self._stderr)

    def close(self) -> None:
        """Let go of the message bus."""
        while self._close:
            self._close.pop()()
        self._client = None
