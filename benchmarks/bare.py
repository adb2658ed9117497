# SPDX-License-Identifier: Apache-2.0
"""The reference: the same work by the libvirt call and nothing else.

No journal, no proof, no flush; what a caller would write who trusts that
all goes well.
"""

from __future__ import annotations

import time
from xml.etree import ElementTree as ET

import libvirt

from tests.functional.lab.guest import Guest
from tests.functional.lab.share import Volume

_POLL = 0.005


def snapshot(guest: Guest, volume: Volume, new_file: str) -> None:
    """Move the guest onto a prepared overlay."""
    root = ET.Element('domainsnapshot')
    disks = ET.SubElement(root, 'disks')
    disk = ET.SubElement(disks, 'disk', name=guest.device(volume),
                         snapshot='external', type='file')
    ET.SubElement(disk, 'driver', type='qcow2')
    ET.SubElement(disk, 'source', file=str(volume.folder / new_file))
    guest.domain.snapshotCreateXML(
        ET.tostring(root, encoding='unicode'),
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)


def commit(guest: Guest, volume: Volume, base: str, top: str) -> None:
    """Commit a layer below the active one; returns when it is gone."""
    domain, device = guest.domain, guest.device(volume)
    domain.blockCommit(device, str(volume.folder / base),
                       str(volume.folder / top), 0,
                       libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE)
    while domain.blockJobInfo(device):
        time.sleep(_POLL)
