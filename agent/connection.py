# SPDX-License-Identifier: Apache-2.0
"""One connection to libvirtd that comes back by itself.

Native threads: one for libvirt's event loop, one that connects again.  What
libvirt raises is translated here, and nowhere else.  A call may be made from
any thread except from inside an event callback.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import logging
import threading
import time
from typing import Any

import libvirt

from assisted_snapshots.agent.decide import Verdict
from assisted_snapshots.rpcapi import errors

LOG = logging.getLogger(__name__)

KEEPALIVE = (5, 3)
RECONNECT = (0.1, 1.0)
_PARTING = 5.0
# Seconds after which a connection that does not come is given up: a client
# that asks has more patience, and libvirtd restarts in less.
_COMING = 5.0
OLDEST = 8_000_000
BROKEN = {9_000_000: ('loses track of block jobs (fixed in 9.1.0)',
                      '9.1.0 or newer; on Debian 12 the backports suite '
                      'has it')}

_VERDICTS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED: Verdict.COMPLETED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED: Verdict.FAILED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED: Verdict.CANCELED,
    libvirt.VIR_DOMAIN_BLOCK_JOB_READY: Verdict.READY}


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a guest.

    :ivar device: disk of a block job's event, else empty.
    :ivar verdict: of a block job's event.
    """

    uuid: str
    device: str = ''
    verdict: Verdict | None = None


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


class Connection:
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
        self._stands = threading.Event()
        self._apart = time.monotonic()
        self._lost = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected,
                                        name='libvirt-connect', daemon=True)
        self._guard = threading.Lock()

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
            self._on_connected()
        self._stands.set()
        LOG.info('connected to %s, libvirt %s', self.uri,
                 text_version(self.libvirt_version))

    def _disconnect(self) -> None:
        self._apart = time.monotonic()
        self._stands.clear()
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

    def expect(self) -> None:
        """Wait for a connection that is just being made, if one is.

        A request that comes while this process or libvirtd is being started
        is not worth a refusal.  A libvirtd that has been away for longer is
        not waited for.
        """
        self._stands.wait(max(0.0, self._apart + _COMING - time.monotonic()))

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
            self._on_stirred(uuid)
        self._on_event(Event(uuid))

    def _on_connected(self) -> None:
        """A new connection stands; called under the lock."""

    def _on_stirred(self, uuid: str) -> None:
        """Something happened to a guest; called under the lock."""

    # Calls --------------------------------------------------------------

    @contextmanager
    def calling(self, call: str, domain: str = '',
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


def _alive(conn: Any) -> bool:
    try:
        return bool(conn.isAlive())
    except libvirt.libvirtError:
        return False
