# SPDX-License-Identifier: Apache-2.0
"""Who works on the disk of the guest that has a volume.

The agent on the guest's host does, if it answers; else Nova, within
upstream's protocol.  An attachment that is about to change, or a second
one, is refused before anything is made.  This module must never take
silence for "no guest": whether a volume is detached is what Cinder's
attachments say, and the chain room looks at QEMU's locks besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
import threading
import time

from cinder import objects
from cinder.objects import fields
from oslo_config import cfg
from oslo_log import log as logging
import oslo_messaging as messaging

from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.chain.guest import GuestSide
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.cinder_driver import asked
from assisted_snapshots.cinder_driver import attachments
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import home
from assisted_snapshots.cinder_driver.nova_side import NovaSide
from assisted_snapshots.cinder_driver.progress import SnapshotProgress
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.guest import AgentGuest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.reports import ReportClient

LOG = logging.getLogger(__name__)

# Seconds that an agent may take to say that it is there.
_HELLO = 3.0

# Seconds after which an agent that did not answer is asked once more.
_FORGIVEN = 60.0

# After these nobody knows what the agent has; an operation that meets one
# stays open and is carried on by a repeat.
_SILENT = (errors.PeerSilent, errors.BrokerUnreachable,
           errors.InternalError, errors.JobNotFound, errors.OutcomeUnknown)


def settled(backend: Backend, volume: objects.Volume, *,
            snapshot: objects.Snapshot | None = None,
            at_rest: bool = False) -> Operations:
    """Return a volume's operations, with its guest's side, in order.

    :param at_rest: only snapshots will be read, so that the guest matters
        only if a crash has cut something short.
    :raises Disagreement: nobody can tell what is right.
    """
    unfinished = backend.unsettled(volume)
    if at_rest and not unfinished:
        return backend.operations(volume)
    progress = None if snapshot is None else SnapshotProgress(
        backend.context(), snapshot).percent
    operations = backend.settled(
        volume, guest=side_for(backend, volume, snapshot=snapshot),
        progress=progress)
    if unfinished:
        # Whatever comes now may be refused; this is true already.
        attachments.in_step(backend, volume, operations)
    return operations


def side_for(backend: Backend, volume: objects.Volume, *,
             snapshot: objects.Snapshot | None = None) -> GuestSide:
    """Return the side of the guest that has a volume, or of none.

    :param volume: fresh, and locked.
    :param snapshot: what is being created or deleted; it gets the progress.
    :raises MultiAttached: more than one guest has it.
    :raises AttachmentChanging: it is on its way to a guest, or off one.
    """
    attachment = attachment_of(backend, volume)
    if attachment is None:
        return Detached(volume)
    host = host_of(attachment)
    if _party(backend, volume, host) == asked.NOVA:
        return NovaSide(backend, volume, attachment.instance_uuid, snapshot)
    return AgentSide(backend, volume, host, snapshot)


def _party(backend: Backend, volume: objects.Volume, host: str) -> str:
    """Return who is to be asked: who was, if something is unfinished."""
    how = backend.configuration.assisted_agent
    before = asked.by(backend, volume)
    if before or how != 'auto':
        return before or (asked.NOVA if how == 'never' else asked.AGENT)
    return asked.AGENT if answers(backend, host) else asked.NOVA


def attachment_of(backend: Backend, volume: objects.Volume
                  ) -> objects.VolumeAttachment | None:
    """Return the one attachment of a volume, None if it has none.

    :raises MultiAttached: it has more than one.
    :raises AttachmentChanging: it is not yet, or not any more, attached.
    :raises VolumeInUse: what has it is no guest.
    """
    found = list(objects.VolumeAttachmentList.get_all_by_volume_id(
        backend.context(), volume.id))
    for attachment in found:
        if attachment.attach_status != (
                fields.VolumeAttachStatus.ATTACHED):
            raise failures.AttachmentChanging(
                volume=volume.id, status=attachment.attach_status)
    if len(found) > 1:
        raise failures.MultiAttached(volume=volume.id, count=len(found))
    if found and not found[0].instance_uuid:
        raise chain_errors.VolumeInUse(
            volume=volume.name, user=f'host {host_of(found[0])}',
            reason='it is attached to a host, not to a server')
    return found[0] if found else None


def host_of(attachment: objects.VolumeAttachment) -> str:
    """Return what Nova calls the host of an attachment."""
    connector: Mapping[str, str] = attachment.connector or {}
    return str(attachment.attached_host or connector.get('host', ''))


def client(backend: Backend, host: str) -> AgentClient:
    """Return a client of the agent on a host."""
    url = backend.configuration.assisted_agent_transport_url
    return AgentClient(_BUS.way(url), host)


def answers(backend: Backend, host: str) -> bool:
    """Tell whether there are an agent and Nova's hooks on a host.

    Without the hooks, Nova would start the guest on the layer that it had
    before.  One that was not there is not asked again at once: where no
    agents are deployed, every operation would wait for the answer.
    """
    url = backend.configuration.assisted_agent_transport_url
    return _BUS.knows(url, host)


def check_formatting(backend: Backend, volume: objects.Volume,
                     host: str) -> None:
    """See that a host does not format an encrypted volume.

    Nova as released does: it looks for LUKS at the beginning of the file
    only.

    :raises WouldBeFormatted: nobody says that Nova there has the hooks.
    """
    options = backend.configuration
    if volume.encryption_key_id and options.assisted_agent != 'always' \
            and not _BUS.has_hooks(options.assisted_agent_transport_url,
                                   host):
        raise failures.WouldBeFormatted(volume=volume.id, host=host)


class Detached:
    """The side of a volume that no guest has.

    What was begun with a guest that has gone since is ended with it.
    """

    def __init__(self, volume: objects.Volume) -> None:
        self._name = volume.name

    def chain(self, volume_id: str) -> tuple[str, ...] | None:
        """Say that no guest has the volume."""
        return None

    def can_commit(self, volume_id: str) -> tuple[bool, str]:
        """Say that there is no QEMU to deny it."""
        return True, ''

    def create(self, volume_id: str, snapshot_id: str, new_file: str,
               quiesce: str) -> str:
        """Say that nobody can be moved."""
        raise self._gone()

    def merge(self, volume_id: str, subject: str, kind: str,
              before: tuple[str, ...], merged: tuple[str, ...],
              survivor: str) -> None:
        """Say that nobody can merge it, nor tell what was done."""
        raise self._gone()

    def extend(self, volume_id: str, size: int) -> None:
        """Say that there is nobody to tell."""
        raise self._gone()

    def _gone(self) -> chain_errors.GuestFailed:
        return chain_errors.GuestFailed(
            volume=self._name, code='guest-gone',
            reason='it has been detached since')


class AgentSide:
    """Works on one volume's guest by the agent on its host.

    Serials of disks are ids of volumes; the files of a migrated volume are
    named by another id.
    """

    def __init__(self, backend: Backend, volume: objects.Volume, host: str,
                 snapshot: objects.Snapshot | None = None) -> None:
        self._backend = backend
        self._volume = volume
        self.host = host
        progress = (_ignore if snapshot is None else SnapshotProgress(
            backend.context(), snapshot).job)
        configuration = backend.configuration
        self._guest = AgentGuest(
            client(backend, host), progress=progress, error=self._failure,
            patience=float(configuration.assisted_agent_patience),
            bandwidth=configuration.assisted_bandwidth, report=True)

    def chain(self, volume_id: str) -> tuple[str, ...] | None:
        """Return the live layers.

        :raises GuestRefused: the host has no guest with the volume, though
            Cinder has it attached there: it is being moved, say.
        """
        live = home(self._guest.chain, self._volume.id)
        if live is None:
            raise chain_errors.GuestRefused(
                volume=self._volume.name, code=errors.VolumeNotFound.code,
                reason=f'it is attached on {self.host}, but no guest there '
                       f'has it')
        return live

    def can_commit(self, volume_id: str) -> tuple[bool, str]:
        """Tell whether QEMU may write to a backing file, and the remedy."""
        return home(self._guest.can_commit, self._volume.id)

    def create(self, volume_id: str, snapshot_id: str, new_file: str,
               quiesce: str) -> str:
        """Move the guest onto the prepared overlay."""
        return home(self._guest.create, self._volume.id, snapshot_id,
                    new_file, quiesce)

    def create_all(self, disks: tuple[SnapshotDisk, ...],
                   quiesce: str) -> str:
        """Move several disks of the guest in one transaction."""
        return home(self._guest.create_all, disks, quiesce).consistency

    def merge(self, volume_id: str, subject: str, kind: str,
              before: tuple[str, ...], merged: tuple[str, ...],
              survivor: str) -> None:
        """Merge layers; returns when it is done and durable.

        Silence leaves it written down that the agent was asked.
        """
        with self._asking(subject):
            home(self._guest.merge, self._volume.id, subject, kind, before,
                 merged, survivor)

    def extend(self, volume_id: str, size: int) -> None:
        """Let the disk grow; silence is noted as for a merge."""
        with self._asking(self._volume.name):
            home(self._guest.extend, self._volume.id, size)

    @contextmanager
    def _asking(self, subject: str) -> Iterator[None]:
        """Keep it written down that the agent was asked while it is open."""
        asked.note(self._backend, self._volume, asked.AGENT, subject)
        try:
            yield
        except chain_errors.GuestFailed:
            asked.forget(self._backend, self._volume)
            raise
        asked.forget(self._backend, self._volume)

    def _failure(self, error: errors.AgentError) -> Exception:
        if isinstance(error, _SILENT):
            return error
        code = (error.job_code if isinstance(error, errors.JobFailed)
                else error.code)
        return chain_errors.GuestFailed(volume=self._volume.name, code=code,
                                        reason=str(error))


class _Bus:
    """The ways to the agents' message brokers, and who was silent there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ways: dict[str | None, messaging.RPCTransport] = {}
        self._silent: dict[tuple[str | None, str], float] = {}

    def way(self, url: str | None) -> messaging.RPCTransport:
        """Return the transport to a broker; None is Cinder's own."""
        with self._lock:
            if url not in self._ways:
                self._ways[url] = transport.make(
                    None if url else cfg.CONF, url)
            return self._ways[url]

    def has_hooks(self, url: str | None, host: str) -> bool:
        """Tell whether Nova's hooks on a host answer now."""
        try:
            self._greet_hooks(url, host)
        except errors.AgentError as exc:
            LOG.info('No hooks of Nova on %s: %s', host, exc)
            return False
        return True

    def knows(self, url: str | None, host: str) -> bool:
        """Tell whether the agent on a host answers, or lately did not."""
        key = (url, host)
        since = self._silent.get(key)
        if since is not None and time.monotonic() - since < _FORGIVEN:
            return False
        try:
            home(AgentClient(self.way(url), host, _HELLO).ping)
            self._greet_hooks(url, host)
        except errors.AgentError as exc:
            LOG.info('No agent on %s, or nobody who writes its reports into '
                     "Nova's records: %s", host, exc)
            self._silent[key] = time.monotonic()
            return False
        self._silent.pop(key, None)
        return True

    def _greet_hooks(self, url: str | None, host: str) -> None:
        home(ReportClient(self.way(url), host, timeout=_HELLO).ping)


def _ignore(_job: Job) -> None:
    pass


_BUS = _Bus()
