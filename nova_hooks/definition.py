# SPDX-License-Identifier: Apache-2.0
"""Which layers a domain's definition names.

libvirt keeps the definition of a domain right, whoever moves its disks.
Nova keeps copies of it, which age.  Pure; a definition is never given to
libvirt from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

# What libvirt tells of a running guest, and finds out again.
_FOUND_OUT = ('backingStore', 'mirror')


@dataclass(frozen=True, slots=True)
class Source:
    """What a disk of a domain's definition writes to.

    :ivar below: the layers under it, the nearest first; only those of an
        encrypted volume are known.
    """

    path: Path
    format: str
    device: str = ''
    below: tuple[Source, ...] = ()


def sources(xml: str) -> dict[str, Source]:
    """Return serial -> active layer of the disks that are files."""
    return {serial: Source(Path(source.get('file', '')),
                           _attribute(disk, 'driver', 'type'),
                           _attribute(disk, 'target', 'dev'))
            for disk, serial, source in _disks(_parse(xml))}


def repointed(xml: str, layers: Mapping[str, Source]) -> str:
    """Return a definition with other active layers; they stay in their folder.

    :param layers: serial -> what its disk shall write to.
    """
    domain = _parse(xml)
    for disk, serial, source in _disks(domain):
        if serial not in layers:
            continue
        wanted = layers[serial]
        folder = Path(source.get('file', '')).parent
        source.set('file', str(folder / wanted.path.name))
        driver = disk.find('driver')
        if driver is not None and wanted.format:
            driver.set('type', wanted.format)
        for tag in _FOUND_OUT:
            for found in disk.findall(tag):
                disk.remove(found)
        name_layers(disk, wanted.below)
    return ElementTree.tostring(domain, encoding='unicode')


def name_layers(disk: Any, below: Sequence[Source]) -> None:
    """Name the layers under an encrypted one, with the same passphrase.

    Where libvirt finds them out by itself, it has none for them, and the
    guest does not start.

    :param disk: element of a disk, of whichever library.
    """
    encryption = disk.find('encryption')
    if encryption is None:
        encryption = disk.find('source/encryption')
    if encryption is None or not below:
        return
    encryption = copy.deepcopy(encryption)
    encryption.tail = None
    for layer in below:
        disk = _add(disk, 'backingStore', type='file')
        _add(disk, 'format', type=layer.format)
        _add(disk, 'source', file=str(layer.path)).append(
            copy.deepcopy(encryption))
    _add(disk, 'backingStore')


def _add(parent: Any, tag: str, **attributes: str) -> Any:
    element = parent.makeelement(tag, attributes)
    parent.append(element)
    return element


def _parse(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml)  # noqa: S314


def _disks(domain: ElementTree.Element) -> Iterator[
        tuple[ElementTree.Element, str, ElementTree.Element]]:
    """Yield each disk that is a file, with its serial and its source."""
    for disk in domain.iterfind('./devices/disk[@type="file"]'):
        serial, source = disk.findtext('serial'), disk.find('source')
        if serial and source is not None and source.get('file'):
            yield disk, serial, source


def _attribute(disk: ElementTree.Element, tag: str, name: str) -> str:
    found = disk.find(tag)
    return '' if found is None else found.get(name, '')
