# SPDX-License-Identifier: Apache-2.0
"""libvirt's XML as immutable values, and the XML that is sent to libvirt.

Pure text in, values out.  Built XML is serialised from elements, never put
together from strings, so a file name cannot become markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import os
from xml.etree import ElementTree

SHUT_OFF = 0


@dataclass(frozen=True, slots=True)
class DiskLayer:
    """One image of a disk.

    :ivar path: as libvirt shows it; empty for a disk that is no file.
    :ivar format: QEMU's driver name, empty where libvirt does not say.
    :ivar index: libvirt's id of the image in this QEMU, empty if shut off.
    """

    path: str
    format: str
    index: str = ''

    @property
    def name(self) -> str:
        """Bare file name."""
        return os.path.basename(self.path)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A block job that copies to a second image.

    :ivar job: ``active-commit``, ``copy`` ...
    :ivar ready: ``yes`` where it can be pivoted; ``pivot`` or ``abort``
        where one of these was asked for; else empty.
    """

    job: str
    ready: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a guest.

    :ivar device: target, ``vda``.
    :ivar serial: for a Cinder volume its id.
    :ivar kind: type of the source: ``file``, ``network``, ``block``...
    :ivar layers: base first; of a shut-off guest only what its definition
        names.
    :ivar secret: UUID of the secret that opens an encrypted disk, or empty.
    """

    device: str
    serial: str
    kind: str
    layers: tuple[DiskLayer, ...]
    mirror: Mirror | None = None
    secret: str = ''
    readonly: bool = False
    shareable: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Bare file names, base first."""
        return tuple(layer.name for layer in self.layers)

    @property
    def active(self) -> DiskLayer:
        """The layer that takes the guest's writes."""
        return self.layers[-1]

    @property
    def folder(self) -> str:
        """Folder of the active layer."""
        return os.path.dirname(self.active.path)

    def address(self, name: str) -> str:
        """Return libvirt's name of a layer, such as ``vda[3]``."""
        if name == self.active.name:
            return self.device
        index = next(n.index for n in self.layers if n.name == name)
        return f'{self.device}[{index}]'


@dataclass(frozen=True, slots=True)
class Domain:
    """A guest.

    :ivar id: libvirt's number of this run of the guest, 0 if shut off.
    :ivar confinement: models of the security labels in force.
    :ivar guest_agent: ``connected`` or ``disconnected``, empty if the guest
        has no channel for it.
    """

    uuid: str
    name: str
    id: int
    disks: tuple[Disk, ...]
    confinement: frozenset[str] = frozenset()
    guest_agent: str = ''

    def by_serial(self, serial: str) -> tuple[Disk, ...]:
        """Return the disks with a serial."""
        return tuple(d for d in self.disks if d.serial == serial)


def parse_domain(text: str) -> Domain:
    """Read a domain's XML."""
    root = ElementTree.fromstring(text)  # noqa: S314  libvirtd is trusted
    labels = frozenset(
        label.get('model', '') for label in root.iterfind('seclabel')
        if label.get('type') != 'none' and label.get('relabel') != 'no')
    channel = root.find(
        'devices/channel/target[@name="org.qemu.guest_agent.0"]')
    return Domain(
        guest_agent='' if channel is None else channel.get('state', ''),
        uuid=root.findtext('uuid', ''), name=root.findtext('name', ''),
        id=int(root.get('id', SHUT_OFF)), confinement=labels,
        disks=tuple(_disk(d) for d in root.iterfind('devices/disk')))


def _disk(node: ElementTree.Element) -> Disk:
    target = node.find('target')
    secret = node.find('.//encryption/secret')
    mirror = node.find('mirror')
    return Disk(
        device='' if target is None else target.get('dev', ''),
        serial=node.findtext('serial', ''), kind=node.get('type', ''),
        layers=_layers(node),
        mirror=None if mirror is None else Mirror(mirror.get('job', ''),
                                                  mirror.get('ready', '')),
        secret='' if secret is None else secret.get('uuid', ''),
        readonly=node.find('readonly') is not None,
        shareable=node.find('shareable') is not None)


def _layers(disk: ElementTree.Element) -> tuple[DiskLayer, ...]:
    """Return the images of a disk, base first."""
    driver = disk.find('driver')
    source = disk.find('source')
    layers = [DiskLayer(
        '' if source is None else source.get('file', ''),
        '' if driver is None else driver.get('type', ''),
        '' if source is None else source.get('index', ''))]
    node = disk.find('backingStore')
    while node is not None and (below := node.find('source')) is not None:
        kind = node.find('format')
        layers.append(DiskLayer(
            below.get('file', ''),
            '' if kind is None else kind.get('type', ''),
            below.get('index', '') or node.get('index', '')))
        node = node.find('backingStore')
    return tuple(reversed(layers))


def snapshot_xml(domain: Domain, new: Mapping[str, tuple[str, str]]) -> str:
    """Return the XML of an external snapshot of some disks.

    :param new: device -> path of the prepared overlay and the UUID of the
        secret that opens it (or an empty string).
    """
    root = ElementTree.Element('domainsnapshot')
    disks = ElementTree.SubElement(root, 'disks')
    for device in (d.device for d in domain.disks):
        if device not in new:
            ElementTree.SubElement(disks, 'disk', name=device, snapshot='no')
            continue
        path, secret = new[device]
        disk = ElementTree.SubElement(disks, 'disk', name=device,
                                      snapshot='external', type='file')
        ElementTree.SubElement(disk, 'driver', type='qcow2')
        source = ElementTree.SubElement(disk, 'source', file=path)
        if secret:
            encryption = ElementTree.SubElement(source, 'encryption',
                                                format='luks')
            ElementTree.SubElement(encryption, 'secret', type='passphrase',
                                   uuid=secret)
    return ElementTree.tostring(root, encoding='unicode')


def with_source(text: str, device: str, path: str, form: str) -> str:
    """Return a domain's definition with one disk on another image.

    What the definition says of the layers below is dropped: libvirt then
    follows the headers when the guest starts.
    """
    root = ElementTree.fromstring(text)  # noqa: S314  libvirtd is trusted
    for disk in root.iterfind('devices/disk'):
        target = disk.find('target')
        source = disk.find('source')
        driver = disk.find('driver')
        if target is None or target.get('dev') != device or source is None:
            continue
        source.set('file', path)
        if driver is not None:
            driver.set('type', form)
        for stale in disk.findall('backingStore'):
            disk.remove(stale)
    return ElementTree.tostring(root, encoding='unicode')
