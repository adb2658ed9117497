# SPDX-License-Identifier: Apache-2.0
"""No guest is started on a layer that is not its last.

Nova starts guests from its block-device mappings.  A mapping lags behind
when something died between the switch of a disk and the report.  Before a
domain is destroyed its definition still says what it wrote to, and libvirt
keeps it right: :func:`follow`.  What no definition tells, the files may
contradict: :func:`check`.

This module must never change a file of a volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import logging
from pathlib import Path
from typing import Any

from assisted_snapshots.chain import header
from assisted_snapshots.chain import lock
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.errors import ChainError
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import renew_folder
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.value import Format
from assisted_snapshots.nova_hooks.definition import Source
from assisted_snapshots.nova_hooks.definition import sources
from assisted_snapshots.nova_hooks.errors import BeingWritten
from assisted_snapshots.nova_hooks.errors import MovedMeanwhile
from assisted_snapshots.nova_hooks.errors import StaleLayer
from assisted_snapshots.nova_hooks.mapping import repoint

LOG = logging.getLogger(__name__)

_REMEDY = ('let "assisted-snapshot chain check" tell what is the case, and '
           'repeat the snapshot operation in Cinder first')


def follow(xml: str, mappings: list[Any]) -> None:
    """Make Nova's mappings name what the domain's definition names.

    :param xml: the definition of a domain that is about to be made anew.
    :param mappings: Nova's driver block-device mappings of its volumes.
    """
    defined = sources(xml)
    for mapping in mappings:
        info = mapping.get('connection_info') or {}
        data, serial = info.get('data') or {}, info.get('serial')
        source = defined.get(str(serial))
        if source is None or 'name' not in data or 'export' not in data:
            continue
        files = _files(source.path.parent, data['name'])
        if files.owns(source.path.name) and repoint(
                info, source.path.name, source.format):
            LOG.warning('Volume %s: the mapping lagged behind, the guest '
                        'runs on %s', serial, source.path.name)
            mapping['connection_info'] = info
            mapping.save()


def check(connection_info: dict[str, Any]) -> None:
    """Refuse a layer that has been left already.

    An overlay that nobody has written to and that .info does not know has
    been prepared for a snapshot that was not taken; it does no harm.

    :raises StaleLayer: the guest must not be started on it.
    """
    data = connection_info.get('data') or {}
    if 'export' not in data or 'name' not in data \
            or 'device_path' not in data:
        return
    path = Path(data['device_path'])
    volume_id = connection_info.get('serial', data['name'])
    try:
        reason = _left(_files(path.parent, path.name), path.name)
    except PermissionError as exc:
        LOG.warning('Volume %s: whether %s is its last layer cannot be '
                    'seen: %s', volume_id, path.name, exc)
        return
    if reason:
        raise StaleLayer(volume_id=volume_id, file=path.name, reason=reason,
                         remedy=_REMEDY)


def layers(mappings: list[Any]) -> dict[str, Source]:
    """Return serial -> active layer, as Nova's mappings say.

    :raises StaleLayer: a guest must not be started on one of them.
    """
    found = {}
    for mapping in mappings:
        info = mapping.get('connection_info') or {}
        data = info.get('data') or {}
        if 'name' in data and 'device_path' in data and info.get('serial'):
            check(info)
            path = Path(data['device_path'])
            found[str(info['serial'])] = Source(
                path, data.get('format', ''),
                below=below(path) if data.get('encrypted') else ())
    return found


def below(path: Path) -> tuple[Source, ...]:
    """Return the layers under one of an encrypted volume, nearest first.

    No guest can have written such a header.  None if they cannot be read:
    libvirt will say what is wrong.
    """
    found: list[Source] = []
    try:
        layer = header.read_header(path)
        while layer.backing is not None:
            path = path.with_name(layer.backing)
            found.append(Source(path, str(layer.backing_format)))
            if layer.backing_format is not Format.QCOW2:
                break
            layer = header.read_header(path)
    except (ChainError, PermissionError) as exc:
        LOG.warning('The layers of %s cannot be read: %s', path.name, exc)
        return ()
    return tuple(found)


def check_moving(xml: str, taken: Mapping[str, dict[str, Any]]) -> None:
    """Refuse a live migration that would open other layers than there are.

    :param xml: the definition of the running domain.
    :param taken: serial -> connection_info that the other host was given.
    :raises MovedMeanwhile: the guest has been moved to another layer since.
    """
    live = sources(xml)
    for serial, info in taken.items():
        name = (info.get('data') or {}).get('name')
        if name and serial in live and live[serial].path.name != name:
            raise MovedMeanwhile(volume_id=serial, given=name,
                                 file=live[serial].path.name)


def written_to(xml: str) -> BeingWritten | None:
    """Tell which volume of a domain that is off somebody works on.

    :param xml: its definition.
    """
    for serial, source in sources(xml).items():
        files = _files(source.path.parent, source.path.name)
        with suppress(OSError, ChainError):
            for layer in sorted({files.name, *_overlays(files)}):
                if lock.uses(files.path(layer)) & lock.Use.WRITE:
                    return BeingWritten(volume_id=serial, file=layer)
    return None


def _files(folder: Path, layer: str) -> VolumeFiles:
    return VolumeFiles(folder, layer.partition('.')[0])


def _left(files: VolumeFiles, name: str) -> str:
    """Return why a layer cannot be the last one; empty if it can be."""
    if not _there(files.path(name)):
        return 'there is no such file'
    above = [layer for layer in sorted(_overlays(files))
             if layer != name and _backing(files, layer) == name]
    if not above:
        return ''
    try:
        info = Store(files).read_info() or {}
    except ChainError as exc:
        return f'{", ".join(above)} lies on it, and {exc}'
    for layer in above:
        if layer in info.values():
            return f'{layer} lies on it'
        if any(True for _ in qcow2.mapped(files.path(layer))):
            return f'{layer} lies on it and has been written to'
    return ''


def _there(path: Path) -> bool:
    """Tell if a file exists; an NFS client may remember that none did."""
    with suppress(FileNotFoundError, NotADirectoryError):
        renew_folder(path.parent)
    return path.exists()


def _overlays(files: VolumeFiles) -> list[str]:
    others = {files.info.name, files.journal.name, files.lock.name}
    return [path.name for path in files.folder.iterdir()
            if files.owns(path.name) and path.name not in others
            and not path.name.endswith('.tmp')]


def _backing(files: VolumeFiles, layer: str) -> str | None:
    """Return what a layer lies on; None for what is no layer."""
    try:
        return header.read_header(files.path(layer)).backing
    except ChainError:
        return None
