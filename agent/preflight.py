# SPDX-License-Identifier: Apache-2.0
"""Why a request cannot be carried out, asked before and again at the start.

Reads the guest and the headers; changes nothing.  Every refusal is an error
of :mod:`assisted_snapshots.rpcapi.errors` that says what was found.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from assisted_snapshots.agent import files
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.xml import Disk
from assisted_snapshots.agent.xml import DiskLayer
from assisted_snapshots.agent.xml import Domain
from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.chain import header
from assisted_snapshots.chain import qcow2
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import MergeRequest

if TYPE_CHECKING:
    from assisted_snapshots.agent.hypervisor import Hypervisor

#: The first libvirt that lets QEMU write to what was a backing file at the
#: guest's start although AppArmor confines it.
COMMITS_UNDER_APPARMOR = 12_001_000


def locate(hypervisor: Hypervisor, host: str,
           volume_id: str) -> tuple[Domain, Disk]:
    """Return the one guest and disk that has a volume."""
    hypervisor.check()
    found = [(domain, disk) for domain in hypervisor.with_volume(volume_id)
             for disk in domain.by_serial(volume_id)]
    if not found:
        raise errors.VolumeNotFound(host=host, volume_id=volume_id)
    domain, disk = found[0]
    if len(found) > 1 or disk.shareable:
        where = ', '.join(f'{d.name} {k.device}' for d, k in found)
        raise errors.MultiAttached(
            volume_id=volume_id,
            where=where if len(found) > 1 else f'{where} (shareable)')
    return domain, disk


def check_disk(domain: Domain, disk: Disk) -> None:
    """Refuse a disk whose layers cannot be worked on."""
    reason = ''
    if disk.kind != 'file':
        reason = f'its source is "{disk.kind}", not a file'
    elif disk.readonly:
        reason = 'the guest has it read-only'
    elif any(n.path != f'{disk.folder}/{n.name}' for n in disk.layers):
        reason = 'its layers are not in one folder'
    if reason:
        raise errors.NotSupported(
            reason=f'disk {disk.device} of {domain.name}: {reason}')


def check_idle(hypervisor: Hypervisor, domain: Domain, disk: Disk) -> None:
    """Refuse a guest or disk that something else is being done to."""
    if not domain.id:
        if hypervisor.has_managed_save(domain.uuid):
            raise errors.GuestState(
                domain=domain.name,
                reason='it has a managed-save image and would resume on its '
                       'old layers; start it, or remove the image')
        return
    job = hypervisor.job(domain.uuid, disk.device)
    if job is not None:
        raise errors.DiskBusy(domain=domain.name, device=disk.device,
                              job=job.method)


def layers(domain: Domain, disk: Disk) -> tuple[DiskLayer, ...]:
    """Return a disk's layers, base first.

    A running guest's are those that libvirt shows; of a guest that is shut
    off libvirt knows only the active one, the headers tell the others.
    """
    if domain.id:
        return disk.layers
    return files.layers_on_disk(disk)


def can_commit(libvirt_version: int, domain: Domain) -> str:
    """Return why layers cannot be merged down, empty if they can."""
    if not domain.id or 'apparmor' not in domain.confinement \
            or libvirt_version >= COMMITS_UNDER_APPARMOR:
        return ''
    return ('AppArmor confines the guest, and libvirt before 12.1.0 denies '
            'QEMU to write to a layer that was a backing file when the guest '
            'started; use libvirt 12.1.0 or newer, set security_driver="none"'
            ' in qemu.conf, or delete while the guest is shut off')


def check_overlay(disk: Disk, chain: tuple[DiskLayer, ...],
                  new_file: str) -> None:
    """Refuse a file that is not an empty-handed child of the active layer.

    :raises BadOverlay: says what was found and what was expected.
    """
    active = chain[-1]
    folder = Path(disk.folder)
    try:
        new = header.read_header(folder / new_file)
        size, encrypted = _active(folder, active)
        used = any(True for _ in qcow2.mapped(folder / new_file))
    except chain_errors.BadLayer as e:
        raise errors.BadOverlay(file=e.fields['file'],
                                reason=e.fields.get('reason',
                                                    'is not there')) from e
    reason = ''
    if new.backing != active.name:
        reason = f'lies on {new.backing}, not on {active.name}'
    elif new.backing_format != active.format:
        reason = (f'pins {new.backing_format} for {active.name}, which the '
                  f'guest uses as {active.format}')
    elif new.virtual_size != size:
        reason = (f'has a virtual size of {new.virtual_size} bytes, '
                  f'{active.name} has {size}')
    elif new.encrypted != encrypted:
        reason = (f'is {"" if new.encrypted else "not "}encrypted, '
                  f'unlike {active.name}')
    elif new.encrypted and not disk.secret:
        reason = 'is encrypted, but the guest has no secret for its disk'
    elif used:
        reason = ('holds data already, which the guest would see as if it '
                  'had written them')
    if reason:
        raise errors.BadOverlay(file=folder / new_file, reason=reason)


def _active(folder: Path, active: DiskLayer) -> tuple[int, bool]:
    """Return virtual size and encryption of the active layer."""
    if active.format == 'raw':
        return files.raw_size(folder / active.name), False
    found = header.read_header(folder / active.name)
    return found.virtual_size, found.encrypted


def check_whole(record: Record) -> None:
    """Refuse a merge whose layers are cut off or have broken tables.

    QEMU reads zeroes where a file is cut off, and would copy them.  The
    active layer is left out: QEMU is writing to it.

    :raises BadLayer: says which, and what is wrong.
    """
    request = record.request
    if not isinstance(request, MergeRequest):
        return
    for name in request.merged:
        if name in (request.survivor, request.before[-1]) \
                or record.formats.get(name) == 'raw':
            continue
        try:
            for _range in qcow2.mapped(Path(record.folder, name)):
                pass
        except chain_errors.BadLayer as e:
            raise errors.BadLayer(file=e.fields['file'],
                                  reason=e.fields.get('reason',
                                                      'is not there')) from e
