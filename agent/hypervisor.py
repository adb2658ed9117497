# SPDX-License-Identifier: Apache-2.0
"""The typed boundary to libvirt: one connection that comes back by itself.

The only module of the long-running agent that touches libvirt.  It holds no
opinion on what a call means for a job.  Every method may be called from any
thread except from inside an event callback; it raises errors of
:mod:`assisted_snapshots.rpcapi.errors`, ``HypervisorDown`` where there is
no connection.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import json
import logging
import threading
from typing import Any

import libvirt
import libvirt_qemu

from assisted_snapshots.agent import xml
from assisted_snapshots.agent.decide import Verdict
from assisted_snapshots.rpcapi import errors

LOG = logging.getLogger(__name__)

KEEPALIVE = (5, 3)
RECONNECT = (0.1, 1.0)
_PARTING = 5.0
OLDEST = 8_000_000
BROKEN = {9_000_000: ('loses track of block jobs (fixed in 9.1.0)',
                      '9.1.0 or newer; on Debian 12 the backports suite '
                      'has it')}

_JOB_METHODS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: 'pull',
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: 'copy',
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: 'commit',
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: 'active-commit',
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: 'backup'}

_VERDICTS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED: Verdict.COMPLETED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED: Verdict.FAILED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED: Verdict.CANCELED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_READY: Verdict.READY}

_SNAPSHOT = (libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
             | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
             | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
             | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a guest.

    :ivar device: disk of a block job's event, else empty.
    :ivar verdict: of a block job's event.
    """

    uuid: str
    device: str = ''
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class BlockJob:
    """A block job as QEMU reports it; sizes in bytes."""

    method: str
    bandwidth: int
    done: int
    total: int


class _EventLoop:
    """libvirt's event loop: one per process, never ends."""

    _lock = threading.Lock()
    _running = False

    @classmethod
    def ensure(cls) -> None:
        """Run the loop; must come before the first connection."""
        with cls._lock:
            if cls._running:
                return
            libvirt.registerErrorHandler(lambda _ctx, _err: None, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=cls._run, name='libvirt-events',
                             daemon=True).start()
            cls._running = True

    @staticmethod
    def _run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()


def text_version(number: int) -> str:
    """Return libvirt's version number as people write it."""
    return f'{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}'


def unfit(number: int) -> str:
    """Return why a libvirt version cannot be used, empty if it can."""
    if number in BROKEN:
        what, use = BROKEN[number]
        return f'libvirt {text_version(number)} {what}; use {use}'
    if number < OLDEST:
        return (f'libvirt {text_version(number)} is too old; use '
                f'{text_version(OLDEST)} or newer, but not 9.0.0')
    return ''


class Hypervisor:
    """A connection to libvirtd.

    :param on_event: called with an Event, or None when a new connection
        stands; from libvirt's event thread, so it must only take a note.
    """

    def __init__(self, uri: str,
                 on_event: Callable[[Event | None], None]) -> None:
        self.uri = uri
        self.libvirt_version = 0
        self.qemu_version = 0
        self._on_event = on_event
        self._conn: Any = None
        self._reason = 'not connected yet'
        self._lost = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected,
                                        name='libvirt-connect', daemon=True)
        self._guard = threading.Lock()
        self._serials: dict[str, frozenset[str]] = {}
        self._stale: set[str] = set()

    # Connection ---------------------------------------------------------

    def start(self) -> None:
        """Connect in the background, and again whenever it breaks."""
        _EventLoop.ensure()
        self._thread.start()

    def close(self) -> None:
        """Disconnect for good."""
        self._closing.set()
        self._lost.set()
        self._thread.join(_PARTING)

    def _keep_connected(self) -> None:
        pause, longest = RECONNECT
        while not self._closing.is_set():
            self._lost.clear()
            try:
                self._connect()
            except libvirt.libvirtError as e:
                self._reason = str(e)
                LOG.warning('libvirt at %s: %s', self.uri, e)
                self._closing.wait(pause)
                pause = min(pause * 2, longest)
                continue
            pause = RECONNECT[0]
            self._on_event(None)
            self._lost.wait()
            self._disconnect()

    def _connect(self) -> None:
        conn = libvirt.open(self.uri)
        try:
            conn.setKeepAlive(*KEEPALIVE)
        except libvirt.libvirtError:
            LOG.debug('no keepalive on %s', self.uri)
        conn.registerCloseCallback(lambda *_: self._lost.set(), None)
        self.libvirt_version = conn.getLibVersion()
        try:
            self.qemu_version = conn.getVersion()
        except libvirt.libvirtError:
            self.qemu_version = 0
        for event, callback in (
                (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, self._job_event),
                (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._guest_event),
                (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, self._guest_event),
                (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
                 self._guest_event)):
            conn.domainEventRegisterAny(None, event, callback, None)
        with self._guard:
            self._conn = conn
            self._serials = {}
            self._stale = set()
        LOG.info('connected to %s, libvirt %s', self.uri,
                 text_version(self.libvirt_version))

    def _disconnect(self) -> None:
        with self._guard:
            conn, self._conn = self._conn, None
        self._reason = 'the connection was lost'
        if conn is not None:
            try:
                conn.close()
            except libvirt.libvirtError as e:
                LOG.debug('closing a broken connection: %s', e)
        if not self._closing.is_set():
            LOG.warning('the connection to %s was lost', self.uri)

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._conn is not None

    def problem(self) -> str:
        """Return why this host cannot work now, empty if it can."""
        if self._conn is None:
            return str(errors.HypervisorDown(uri=self.uri,
                                             reason=self._reason))
        return unfit(self.libvirt_version)

    def check(self) -> None:
        """Raise unless this host can work now."""
        if self._conn is None:
            raise errors.HypervisorDown(uri=self.uri, reason=self._reason)
        if reason := unfit(self.libvirt_version):
            raise errors.NotSupported(reason=reason)

    # Events, on libvirt's thread ----------------------------------------

    def _job_event(self, _conn: Any, dom: Any, device: str, _kind: int,
                   status: int, _opaque: Any) -> None:
        self._on_event(Event(dom.UUIDString(), device,
                             _VERDICTS.get(status)))

    def _guest_event(self, _conn: Any, dom: Any, *_rest: Any) -> None:
        uuid = dom.UUIDString()
        with self._guard:
            self._stale.add(uuid)
        self._on_event(Event(uuid))

    # Calls --------------------------------------------------------------

    @contextmanager
    def _calling(self, call: str, domain: str = '',
                 device: str = '') -> Iterator[Any]:
        """Hand out the connection and translate what libvirt raises."""
        conn = self._conn
        if conn is None:
            raise errors.HypervisorDown(uri=self.uri, reason=self._reason)
        try:
            yield conn
        except libvirt.libvirtError as e:
            raise self._translated(conn, e, call, domain, device) from e

    def _translated(self, conn: Any, e: Any, call: str, domain: str,
                    device: str) -> errors.AgentError:
        code = e.get_error_code()
        if not _alive(conn):
            self._lost.set()
            return errors.HypervisorDown(uri=self.uri, reason=str(e))
        if code in (libvirt.VIR_ERR_NO_DOMAIN,
                    libvirt.VIR_ERR_OPERATION_INVALID):
            return errors.GuestState(domain=domain, reason=str(e))
        if code == libvirt.VIR_ERR_OPERATION_UNSUPPORTED and device:
            return errors.DiskBusy(domain=domain, device=device, job=str(e))
        return errors.LibvirtFailed(call=call, reason=str(e), number=code)

    @contextmanager
    def _domain(self, uuid: str, call: str,
                device: str = '') -> Iterator[Any]:
        with self._calling(call, uuid, device) as conn:
            yield conn.lookupByUUIDString(uuid)

    # Guests -------------------------------------------------------------

    def domain(self, uuid: str) -> xml.Domain | None:
        """Return a guest as it is now, None where libvirt has none."""
        with self._calling('XMLDesc', uuid) as conn:
            try:
                text = conn.lookupByUUIDString(uuid).XMLDesc(0)
            except libvirt.libvirtError as e:
                if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
        domain = xml.parse_domain(text)
        with self._guard:
            self._serials[uuid] = frozenset(d.serial for d in domain.disks)
        return domain

    def with_volume(self, volume_id: str) -> tuple[xml.Domain, ...]:
        """Return every guest that has a disk with this serial, as is now.

        An index of serials, kept fresh by events, says which guests to look
        at; where it knows of none, all are looked at.
        """
        with self._guard:
            stale, self._stale = self._stale, set()
        for uuid in stale:
            if self.domain(uuid) is None:
                with self._guard:
                    self._serials.pop(uuid, None)
        with self._guard:
            known = {u for u, s in self._serials.items() if volume_id in s}
        return (self._having(volume_id, known)
                or self._having(volume_id, self._all()))

    def _having(self, volume_id: str,
                uuids: Iterable[str]) -> tuple[xml.Domain, ...]:
        found = [self.domain(uuid) for uuid in sorted(uuids)]
        return tuple(d for d in found if d and d.by_serial(volume_id))

    def _all(self) -> set[str]:
        with self._calling('listAllDomains') as conn:
            return {d.UUIDString() for d in conn.listAllDomains(0)}

    def has_managed_save(self, uuid: str) -> bool:
        """Tell whether the guest would resume from a saved memory image."""
        with self._domain(uuid, 'hasManagedSaveImage') as dom:
            return bool(dom.hasManagedSaveImage(0))

    def is_running(self, uuid: str) -> bool:
        """Tell whether the guest executes (False while it is paused)."""
        with self._domain(uuid, 'state') as dom:
            return bool(dom.state(0)[0] == libvirt.VIR_DOMAIN_RUNNING)

    def was_shut_down(self, uuid: str) -> bool:
        """Tell whether a guest that is off is known to have powered off."""
        with self._domain(uuid, 'state') as dom:
            return bool(tuple(dom.state(0)) == (
                libvirt.VIR_DOMAIN_SHUTOFF,
                libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN))

    def definition(self, uuid: str) -> str:
        """Return the persistent definition, with its secrets."""
        flags = (libvirt.VIR_DOMAIN_XML_INACTIVE
                 | libvirt.VIR_DOMAIN_XML_SECURE)
        with self._domain(uuid, 'XMLDesc') as dom:
            return str(dom.XMLDesc(flags))

    def define(self, text: str) -> None:
        """Replace a persistent definition."""
        with self._calling('defineXML') as conn:
            conn.defineXML(text)

    def secret(self, uuid: str) -> bytes:
        """Return the value of a secret."""
        with self._calling('secretGetValue') as conn:
            return bytes(conn.secretLookupByUUIDString(uuid).value(0))

    # Disks --------------------------------------------------------------

    def snapshot(self, uuid: str, text: str) -> None:
        """Move disks onto prepared overlays, all or none.

        May raise although the guest has moved: always look at the chain.
        """
        with self._domain(uuid, 'snapshotCreateXML') as dom:
            dom.snapshotCreateXML(text, _SNAPSHOT)

    def commit(self, uuid: str, device: str, base: str, top: str,
               bandwidth: int) -> None:
        """Begin to commit the layers down to ``base``, which survives."""
        flags = (libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE
                 | libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES)
        if top == device:
            flags |= libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
        with self._domain(uuid, 'blockCommit', device) as dom:
            dom.blockCommit(device, base, top, bandwidth, flags)

    def pull(self, uuid: str, device: str, base: str | None,
             bandwidth: int) -> None:
        """Begin to pull all layers above ``base`` into the active one."""
        flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES
        if base is not None:
            flags |= libvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE
        with self._domain(uuid, 'blockRebase', device) as dom:
            dom.blockRebase(device, base, bandwidth, flags)

    def pivot(self, uuid: str, device: str) -> None:
        """End an active commit that is ready on the lower layer."""
        with self._domain(uuid, 'blockJobAbort', device) as dom:
            dom.blockJobAbort(device,
                              libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)

    def cancel(self, uuid: str, device: str) -> None:
        """Ask a block job to end; returns before it has."""
        with self._domain(uuid, 'blockJobAbort', device) as dom:
            dom.blockJobAbort(device,
                              libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC)

    def set_speed(self, uuid: str, device: str, bandwidth: int) -> None:
        """Limit a block job to bytes per second, 0 for no limit."""
        with self._domain(uuid, 'blockJobSetSpeed', device) as dom:
            dom.blockJobSetSpeed(
                device, bandwidth,
                libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)

    def job(self, uuid: str, device: str) -> BlockJob | None:
        """Return a disk's block job, None where there is none."""
        with self._domain(uuid, 'blockJobInfo', device) as dom:
            info = dom.blockJobInfo(
                device, libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
        if not info:
            return None
        return BlockJob(_JOB_METHODS.get(info['type'], 'unknown'),
                        int(info['bandwidth']), int(info['cur']),
                        int(info['end']))

    # The guest as a whole -----------------------------------------------

    def pause_briefly(self, uuid: str) -> None:
        """Stop and continue the guest, which makes QEMU flush its images."""
        with self._domain(uuid, 'suspend') as dom:
            dom.suspend()
            dom.resume()

    def resume(self, uuid: str) -> None:
        """Continue the guest if it is suspended."""
        with self._domain(uuid, 'resume') as dom:
            if dom.state(0)[0] == libvirt.VIR_DOMAIN_PAUSED:
                dom.resume()

    def freeze(self, uuid: str, seconds: float) -> int:
        """Freeze all file systems; returns how many are frozen."""
        with self._domain(uuid, 'fsFreeze') as dom:
            dom.agentSetResponseTimeout(max(1, int(seconds)), 0)
            return int(dom.fsFreeze(None, 0))

    def thaw(self, uuid: str) -> int:
        """Thaw all file systems; returns how many were frozen."""
        with self._domain(uuid, 'fsThaw') as dom:
            thawed = int(dom.fsThaw(None, 0))
            dom.agentSetResponseTimeout(
                libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)
            return thawed

    def monitor(self, uuid: str, command: str, **arguments: Any) -> Any:
        """Run a QMP command; raises LibvirtFailed on QEMU's error."""
        text = json.dumps({'execute': command, 'arguments': arguments})
        with self._domain(uuid, 'qemuMonitorCommand') as dom:
            answer = json.loads(libvirt_qemu.qemuMonitorCommand(dom, text, 0))
        if 'error' in answer:
            raise errors.LibvirtFailed(call=command,
                                       reason=answer['error'].get('desc'))
        return answer['return']


def _alive(conn: Any) -> bool:
    try:
        return bool(conn.isAlive())
    except libvirt.libvirtError:
        return False
