# SPDX-License-Identifier: Apache-2.0
"""The typed boundary to libvirt: thin methods in, immutable values out.

It holds no opinion on what a call means for a job.  Every method may be
called from any thread except from inside an event callback; it raises errors
of :mod:`assisted_snapshots.rpcapi.errors`, ``HypervisorDown`` where there is
no connection.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import json
import threading
from typing import Any

import libvirt
import libvirt_qemu

from assisted_snapshots.agent import xml
from assisted_snapshots.agent.connection import Connection
from assisted_snapshots.agent.connection import Event
from assisted_snapshots.rpcapi import errors

_JOB_METHODS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: 'pull',
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: 'copy',
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: 'commit',
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: 'active-commit',
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: 'backup'}

_SNAPSHOT = (libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
             | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
             | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
             | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)


@dataclass(frozen=True, slots=True)
class BlockJob:
    """A block job as QEMU reports it; sizes in bytes."""

    method: str
    bandwidth: int
    done: int
    total: int


class Hypervisor(Connection):
    """A connection, and all that is asked of libvirt through it.

    :param on_event: called with an Event, or None when a new connection
        stands; from libvirt's event thread, so it must only take a note.
    """

    def __init__(self, uri: str,
                 on_event: Callable[[Event | None], None]) -> None:
        super().__init__(uri, on_event)
        self._serials: dict[str, frozenset[str]] = {}
        self._stale: set[str] = set()
        self._whole: dict[str, frozenset[str]] | None = None
        self._index = threading.Lock()

    def _on_connected(self) -> None:
        self._serials = {}
        self._stale = set()

    def _on_stirred(self, uuid: str) -> None:
        self._stale.add(uuid)

    @contextmanager
    def _guest(self, uuid: str, call: str,
               device: str = '') -> Iterator[Any]:
        with self.calling(call, uuid, device) as conn:
            yield conn.lookupByUUIDString(uuid)

    # Guests -------------------------------------------------------------

    def domain(self, uuid: str) -> xml.Domain | None:
        """Return a guest as it is now, None where libvirt has none."""
        with self.calling('XMLDesc', uuid) as conn:
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
        with self._index:
            known = self._known(volume_id)
        return (self._having(volume_id, known)
                or self._having(volume_id, self._all()))

    def _known(self, volume_id: str) -> set[str]:
        """Return which guests the index says have a volume.

        It must hold all guests, or one that is in it would hide that
        another has the volume, too.
        """
        with self._guard:
            stale, self._stale = self._stale, set()
            index = self._serials
        try:
            for uuid in stale if self._whole is index else self._all():
                if self.domain(uuid) is None:
                    index.pop(uuid, None)
        except errors.AgentError:
            with self._guard:
                self._stale |= stale
            raise
        self._whole = index
        with self._guard:
            return {u for u, s in index.items() if volume_id in s}

    def _having(self, volume_id: str,
                uuids: Iterable[str]) -> tuple[xml.Domain, ...]:
        found = [self.domain(uuid) for uuid in sorted(uuids)]
        return tuple(d for d in found if d and d.by_serial(volume_id))

    def _all(self) -> set[str]:
        with self.calling('listAllDomains') as conn:
            return {d.UUIDString() for d in conn.listAllDomains(0)}

    def has_managed_save(self, uuid: str) -> bool:
        """Tell whether the guest would resume from a saved memory image."""
        with self._guest(uuid, 'hasManagedSaveImage') as dom:
            return bool(dom.hasManagedSaveImage(0))

    def is_running(self, uuid: str) -> bool:
        """Tell whether the guest executes (False while it is paused)."""
        with self._guest(uuid, 'state') as dom:
            return bool(dom.state(0)[0] == libvirt.VIR_DOMAIN_RUNNING)

    def was_shut_down(self, uuid: str) -> bool:
        """Tell whether a guest that is off is known to have powered off."""
        with self._guest(uuid, 'state') as dom:
            return bool(tuple(dom.state(0)) == (
                libvirt.VIR_DOMAIN_SHUTOFF,
                libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN))

    def definition(self, uuid: str) -> str:
        """Return the persistent definition, with its secrets."""
        flags = (libvirt.VIR_DOMAIN_XML_INACTIVE
                 | libvirt.VIR_DOMAIN_XML_SECURE)
        with self._guest(uuid, 'XMLDesc') as dom:
            return str(dom.XMLDesc(flags))

    def define(self, text: str) -> None:
        """Replace a persistent definition."""
        with self.calling('defineXML') as conn:
            conn.defineXML(text)

    def secret(self, uuid: str) -> bytes:
        """Return the value of a secret."""
        with self.calling('secretGetValue') as conn:
            return bytes(conn.secretLookupByUUIDString(uuid).value(0))

    # Disks --------------------------------------------------------------

    def snapshot(self, uuid: str, text: str) -> None:
        """Move disks onto prepared overlays, all or none.

        May raise although the guest has moved: always look at the chain.
        """
        with self._guest(uuid, 'snapshotCreateXML') as dom:
            dom.snapshotCreateXML(text, _SNAPSHOT)

    def commit(self, uuid: str, device: str, base: str, top: str,
               bandwidth: int) -> None:
        """Begin to commit the layers down to ``base``, which survives."""
        flags = (libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE
                 | libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES)
        if top == device:
            flags |= libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
        with self._guest(uuid, 'blockCommit', device) as dom:
            dom.blockCommit(device, base, top, bandwidth, flags)

    def pull(self, uuid: str, device: str, base: str | None,
             bandwidth: int) -> None:
        """Begin to pull all layers above ``base`` into the active one."""
        flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES
        if base is not None:
            flags |= libvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE
        with self._guest(uuid, 'blockRebase', device) as dom:
            dom.blockRebase(device, base, bandwidth, flags)

    def pivot(self, uuid: str, device: str) -> None:
        """End an active commit that is ready on the lower layer."""
        with self._guest(uuid, 'blockJobAbort', device) as dom:
            dom.blockJobAbort(device,
                              libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)

    def cancel(self, uuid: str, device: str) -> None:
        """Ask a block job to end; returns before it has."""
        with self._guest(uuid, 'blockJobAbort', device) as dom:
            dom.blockJobAbort(device,
                              libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC)

    def set_speed(self, uuid: str, device: str, bandwidth: int) -> None:
        """Limit a block job to bytes per second, 0 for no limit."""
        with self._guest(uuid, 'blockJobSetSpeed', device) as dom:
            dom.blockJobSetSpeed(
                device, bandwidth,
                libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)

    def job(self, uuid: str, device: str) -> BlockJob | None:
        """Return a disk's block job, None where there is none."""
        with self._guest(uuid, 'blockJobInfo', device) as dom:
            info = dom.blockJobInfo(
                device, libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
        if not info:
            return None
        return BlockJob(_JOB_METHODS.get(info['type'], 'unknown'),
                        int(info['bandwidth']), int(info['cur']),
                        int(info['end']))

    def capacity(self, uuid: str, device: str) -> int:
        """Return the virtual size of a disk, as QEMU has it, in bytes."""
        with self._guest(uuid, 'blockInfo') as dom:
            return int(dom.blockInfo(device)[0])

    def resize(self, uuid: str, device: str, size: int) -> None:
        """Give a disk a size in bytes, and tell the guest.

        It would shrink it just as well: see :meth:`capacity` first.
        """
        with self._guest(uuid, 'blockResize') as dom:
            dom.blockResize(device, size,
                            libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    # The guest as a whole -----------------------------------------------

    def pause_briefly(self, uuid: str) -> None:
        """Stop and continue the guest, which makes QEMU flush its images."""
        with self._guest(uuid, 'suspend') as dom:
            dom.suspend()
            dom.resume()

    def resume(self, uuid: str) -> None:
        """Continue the guest if it is suspended."""
        with self._guest(uuid, 'resume') as dom:
            if dom.state(0)[0] == libvirt.VIR_DOMAIN_PAUSED:
                dom.resume()

    def freeze(self, uuid: str, seconds: float) -> int:
        """Freeze all file systems; returns how many are frozen."""
        with self._guest(uuid, 'fsFreeze') as dom:
            dom.agentSetResponseTimeout(max(1, int(seconds)), 0)
            return int(dom.fsFreeze(None, 0))

    def thaw(self, uuid: str) -> int:
        """Thaw all file systems; returns how many were frozen."""
        with self._guest(uuid, 'fsThaw') as dom:
            thawed = int(dom.fsThaw(None, 0))
            dom.agentSetResponseTimeout(
                libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)
            return thawed

    def monitor(self, uuid: str, command: str, **arguments: Any) -> Any:
        """Run a QMP command; raises LibvirtFailed on QEMU's error."""
        text = json.dumps({'execute': command, 'arguments': arguments})
        with self._guest(uuid, 'qemuMonitorCommand') as dom:
            answer = json.loads(libvirt_qemu.qemuMonitorCommand(dom, text, 0))
        if 'error' in answer:
            raise errors.LibvirtFailed(call=command,
                                       reason=answer['error'].get('desc'))
        return answer['return']
