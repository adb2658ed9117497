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

from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.chain import names
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.store import plan_of
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.value import Format
from assisted_snapshots.cli import errors
from assisted_snapshots.cli.progress import Meter
from assisted_snapshots.cli.view import Attachment
from assisted_snapshots.cli.view import ChainView
from assisted_snapshots.rpcapi import errors as agent_errors

if TYPE_CHECKING:
    from assisted_snapshots.chain.guest import GuestSide
    from assisted_snapshots.chain.operations import Operations
    from assisted_snapshots.chain.qemu_img import Secret
    from assisted_snapshots.rpcapi.client import AgentClient

_PREFIX = 'volume-'

# After these nobody knows what the agent has; an operation that meets one
# stays open and is carried on by a repeat.
_SILENT = (agent_errors.PeerSilent, agent_errors.BrokerUnreachable,
           agent_errors.InternalError, agent_errors.JobNotFound,
           agent_errors.OutcomeUnknown)


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
            from oslo_service import backend
            # Before oslo.messaging, which else takes eventlet if it is there.
            backend.register_backend_default_hook(
                lambda: backend.BackendType.THREADING)
            from assisted_snapshots.rpcapi import client
            from assisted_snapshots.rpcapi import transport
            url = self._options.transport_url
            try:
                made = transport.make(url=url)
            except Exception as exc:
                raise errors.BadUrl(reason=exc) from exc
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

    def operations(self, files: names.VolumeFiles,
                   meter: Meter | None = None, *, unlock: bool = False,
                   bandwidth: int = 0) -> Operations:
        """Return the operations on a volume.

        :param meter: where progress is shown.
        :param unlock: data or keys of encrypted layers are worked on here.
        :param bandwidth: limit of what is copied while a guest runs.
        """
        from assisted_snapshots.chain.operations import Operations
        return Operations(
            files, formats=self._formats(files),
            guest=self._guest(files, meter, bandwidth),
            secret=self._secret(files) if unlock else None,
            progress=None if meter is None else meter.percent)

    def _formats(self, files: names.VolumeFiles) -> dict[str, Format]:
        """Return the format of a base that nothing pins yet.

        Whoever runs a guest on it knows; what the caller says must agree,
        because it would be pinned for good.
        """
        form = self._options.base_format
        given = {files.name: Format(form)} if form else {}
        if not self.has_agent or files.journal.exists():
            return given
        try:
            base = self.client.get_chain(files.id).layers[0]
            found = Format(base.format)
        except (agent_errors.AgentError, ValueError):
            return given  # nobody can tell; what needs the guest asks again
        if given.get(base.name, found) is not found:
            raise chain_errors.FormatMismatch(
                file=files.base, where='the guest', found=found, pinned=form)
        return {base.name: found}

    def _guest(self, files: names.VolumeFiles, meter: Meter | None,
               bandwidth: int) -> GuestSide | None:
        """Return the way to running guests, if there is one."""
        if not self.has_agent:
            return None
        client = self.client  # first: it chooses the threads
        from assisted_snapshots.rpcapi.guest import AgentGuest

        def fail(error: agent_errors.AgentError) -> Exception:
            if isinstance(error, _SILENT):
                return error
            code = (error.job_code
                    if isinstance(error, agent_errors.JobFailed)
                    else error.code)
            return chain_errors.GuestFailed(volume=files.name, code=code,
                                            reason=str(error))
        show = meter or Meter(self._stderr, '', bar=False, quiet=True)
        return AgentGuest(client, error=fail, bandwidth=bandwidth,
                          progress=show.job)

    def _secret(self, files: names.VolumeFiles) -> Secret | None:
        """Return the passphrase of an encrypted volume."""
        if not _encrypted(files):
            return None
        from assisted_snapshots.chain.qemu_img import Secret
        file = self._options.secret_file
        if file:
            try:
                return Secret(_passphrase(Path(file).read_bytes(), files))
            except OSError as exc:
                raise errors.BadSecret(volume=files.name,
                                       reason=str(exc)) from exc
        if not self._stdin.isatty():
            raise errors.BadSecret(
                volume=files.name,
                reason='it is encrypted, give --secret-file')
        return Secret(_passphrase(getpass.getpass(
            f'Passphrase of {files.name}: ').encode(), files))

    @staticmethod
    def plan(files: names.VolumeFiles, operations: Operations,
             snapshot: str) -> MergePlan:
        """Return the plan of a deletion: the bound one of a begun one."""
        doing = Store(files).doing()
        if doing and (doing.kind, doing.subject) == ('delete', snapshot):
            return plan_of(files, doing)
        return operations.plan(snapshot)

    def view(self, files: names.VolumeFiles) -> ChainView:
        """Return what there is to show of a volume's chain."""
        attachment = None
        try:
            attachment = self.attachment(files)
        except agent_errors.AgentError as exc:
            # The files can be shown all the same.
            self.warn(f'{exc}; what a guest has is not shown')
        doing = Store(files).doing()
        return ChainView(self.operations(files).state(), attachment,
                         '' if doing is None else
                         f'{doing.kind} of {doing.subject} is unfinished at '
                         f'step "{doing.step}"')

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


def _passphrase(text: bytes, files: names.VolumeFiles) -> bytes:
    """Return a passphrase without the end of its line."""
    value = text.removesuffix(b'\n').removesuffix(b'\r')
    if not value:
        raise errors.BadSecret(volume=files.name, reason='is empty')
    return value


def _encrypted(files: names.VolumeFiles) -> bool:
    """Tell from one layer: they are all encrypted, or none is."""
    try:
        journal = Store(files).read_journal()
        if journal is not None:
            return any(of.encrypted for of in journal.layers.values())
        return qcow2.read_header(files.base).encrypted
    except chain_errors.ChainError:
        return False
