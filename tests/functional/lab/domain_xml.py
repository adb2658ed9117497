# SPDX-License-Identifier: Apache-2.0
"""libvirt XML of the laboratory's guest, shaped as Nova's is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.functional.lab import guest_image
from tests.functional.lab.share import Volume

AGENT_CHANNEL = 'org.qemu.guest_agent.0'


@dataclass(frozen=True)
class Spec:
    """What a guest is made of.

    :ivar console: file that takes the serial console.
    :ivar memory: in MiB.
    """

    name: str
    uuid: str
    image: guest_image.GuestImage
    console: Path
    volumes: Sequence[Volume]
    memory: int = 128


def target(position: int) -> str:
    """Device name of the n-th disk: vda, vdb, ..., vdaa."""
    name = ''
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        name = chr(ord('a') + rest) + name
    return f'vd{name}'


def domain(spec: Spec) -> str:
    """The whole domain, disks on their volumes' active layers."""
    accel = guest_image.accelerator(spec.image)
    root = ET.Element('domain', type='kvm' if accel == 'kvm' else 'qemu')
    _text(root, 'name', spec.name)
    _text(root, 'uuid', spec.uuid)
    _text(root, 'memory', str(spec.memory), unit='MiB')
    _text(root, 'vcpu', '1')
    system = ET.SubElement(root, 'os')
    _text(system, 'type', 'hvm', arch='x86_64', machine='pc')
    _text(system, 'kernel', str(spec.image.kernel))
    _text(system, 'initrd', str(spec.image.initramfs))
    _text(system, 'cmdline', guest_image.CMDLINE if accel == 'kvm'
          else guest_image.TCG_CMDLINE)
    features = ET.SubElement(root, 'features')
    ET.SubElement(features, 'acpi')
    ET.SubElement(features, 'apic')
    ET.SubElement(root, 'cpu', mode='maximum')
    ET.SubElement(root, 'clock', offset='utc')
    for event in ('on_poweroff', 'on_reboot', 'on_crash'):
        _text(root, event, 'destroy')
    _devices(ET.SubElement(root, 'devices'), spec)
    return ET.tostring(root, encoding='unicode')


def _devices(devices: ET.Element, spec: Spec) -> None:
    for position, volume in enumerate(spec.volumes):
        devices.append(disk(volume, target(position)))
    ET.SubElement(devices, 'controller', type='usb', model='none')
    serial = ET.SubElement(devices, 'serial', type='file')
    ET.SubElement(serial, 'source', path=str(spec.console), append='on')
    ET.SubElement(serial, 'target', port='0')
    channel = ET.SubElement(devices, 'channel', type='unix')
    ET.SubElement(channel, 'target', type='virtio', name=AGENT_CHANNEL)
    ET.SubElement(devices, 'memballoon', model='none')


def disk(volume: Volume, device: str) -> ET.Element:
    """One disk as Nova attaches a volume of a share."""
    element = ET.Element('disk', type='file', device='disk')
    ET.SubElement(element, 'driver', name='qemu', type=volume.active_format,
                  cache='none', discard='unmap')
    source = ET.SubElement(element, 'source', file=str(volume.active))
    if volume.secret is not None:
        encryption = ET.SubElement(source, 'encryption', format='luks')
        ET.SubElement(encryption, 'secret', type='passphrase',
                      uuid=volume.secret_uuid)
    ET.SubElement(element, 'target', dev=device, bus='virtio')
    _text(element, 'serial', volume.id)
    return element


def chains(xml: str) -> dict[str, tuple[str, ...]]:
    """Serial -> file names of its layers, base first."""
    found: dict[str, tuple[str, ...]] = {}
    root = ET.fromstring(xml)  # noqa: S314 - from our own libvirtd
    for element in root.iterfind('devices/disk'):
        names: list[str] = []
        layer: ET.Element | None = element
        while layer is not None:
            source = layer.find('source')
            if source is not None:
                names.append(Path(source.get('file', '')).name)
            layer = layer.find('backingStore')
        found[element.findtext('serial', '')] = tuple(reversed(names))
    return found


def _text(parent: ET.Element, tag: str, text: str, **attributes: str
          ) -> None:
    ET.SubElement(parent, tag, attributes).text = text
