# SPDX-License-Identifier: Apache-2.0
"""The files of one volume as a :class:`VolumeState`, or a refusal.

The chain is what the headers say, from the active layer down; .info says
which layer is active and which overlay belongs to which snapshot.  Both
must tell one story.  This module must never write, never run a tool, never
probe a raw layer, and never leave the volume's folder.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
import json
import os
from types import MappingProxyType

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import names
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.chain.value import VolumeState

#: libvirt's limit of a backing chain.
MAX_DEPTH = 200

_ACTIVE = 'active'
_MAX_INFO = 1 << 20


def read_chain(files: VolumeFiles, formats: Mapping[str, Format],
               info: Mapping[str, str] | None, *,
               ignore: Collection[str] = ()) -> VolumeState:
    """Read and check everything about a volume.

    :param formats: pinned format of layers, by file name.  The base needs
        one, unless the header of the layer above pins it.
    :param info: what .info holds, None where there is none.
    :param ignore: files of an operation in flight, which may lie on top of
        the chain without being part of it.
    :raises BadLayer: a file must not be used as a layer.
    :raises BadInfo: .info holds what must not be followed.
    :raises Disagreement: headers and .info tell two stories.
    """
    active, snapshots = _split(files, info)
    chain = read_layers(files, active, formats)
    _check_snapshots(files, chain, snapshots)
    for name, header in strangers(files, chain):
        if name not in ignore and header and header.backing in chain.names:
            raise errors.Disagreement(
                volume=files.name,
                reason=f'{name} lies on {header.backing}, but '
                       f'{files.info.name} does not know it')
    return VolumeState(files.name, chain, MappingProxyType(snapshots))


def read_layers(files: VolumeFiles, active: str,
                formats: Mapping[str, Format]) -> Chain:
    """Follow the headers from a layer down to the base.

    :raises BadLayer: a file must not be used as a layer.
    """
    layers: list[Layer] = []
    name: str | None = active
    implied: Format | None = None
    while name is not None:
        child = layers[-1] if layers else None
        _check_step(files, name, layers)
        wanted = _pinned(files, name, child, formats.get(name), implied)
        layer, implied = _layer(files, name, wanted)
        if child is not None:
            _check_pair(files, child, layer)
        layers.append(layer)
        name = layer.backing
    return Chain(tuple(reversed(layers)))


def strangers(files: VolumeFiles, chain: Chain,
              ) -> Iterator[tuple[str, qcow2.Header | None]]:
    """Yield files of the volume that are neither layers nor bookkeeping.

    Each with its header, or None where it has no sound qcow2 header.
    """
    for name in sorted(os.listdir(files.folder)):
        if (files.owns(name) and name not in chain.names
                and not name.endswith(names.RESERVED)):
            try:
                yield name, qcow2.read_header(files.folder / name)
            except errors.BadLayer:
                yield name, None


def parse_info(files: VolumeFiles, data: bytes) -> dict[str, str]:
    """Return the content of .info.

    :raises BadInfo: truncated, empty, or not what Cinder writes.
    """
    if not data.strip():
        raise errors.BadInfo(file=files.info, reason='is empty')
    if len(data) > _MAX_INFO:
        raise errors.BadInfo(file=files.info, reason='is too long')
    try:
        found = json.loads(data, object_pairs_hook=list)
    except (ValueError, RecursionError) as exc:
        raise errors.BadInfo(file=files.info,
                             reason=f'is not JSON ({exc})') from None
    if not (isinstance(found, list)
            and all(isinstance(pair, tuple) and isinstance(pair[1], str)
                    for pair in found)):
        raise errors.BadInfo(file=files.info,
                             reason='is no JSON object of file names')
    info: dict[str, str] = dict(found)
    if len(info) != len(found):
        raise errors.BadInfo(file=files.info, reason='has a key twice')
    _split(files, info)
    return info


def _split(files: VolumeFiles, info: Mapping[str, str] | None,
           ) -> tuple[str, dict[str, str]]:
    """Return the active layer and the snapshots, with every name checked."""
    if info is None:
        return files.name, {}
    if _ACTIVE not in info:
        raise errors.BadInfo(file=files.info, reason='names no active layer')
    snapshots = {key: file for key, file in info.items() if key != _ACTIVE}
    try:
        for key, file in info.items():
            files.path(file)
            if key != _ACTIVE:
                names.check_snapshot_id(key)
    except errors.BadName as exc:
        raise errors.BadInfo(file=files.info, reason=str(exc)) from None
    if len(set(snapshots.values())) != len(snapshots):
        raise errors.BadInfo(file=files.info,
                             reason='two snapshots have the same file')
    return info[_ACTIVE], snapshots


def _check_snapshots(files: VolumeFiles, chain: Chain,
                     snapshots: Mapping[str, str]) -> None:
    """Every snapshot has an overlay, and every overlay a snapshot."""
    overlays = chain.names[1:]
    for snapshot_id, file in snapshots.items():
        if file not in overlays:
            where = ('is the base layer' if file == chain.base.name
                     else f'is not below {chain.active.name}')
            raise errors.Disagreement(
                volume=files.name,
                reason=f'{file}, the file of snapshot {snapshot_id} in '
                       f'{files.info.name}, {where}')
    for name in overlays:
        if name not in snapshots.values():
            raise errors.Disagreement(
                volume=files.name,
                reason=f'{name} is a layer, but of no snapshot in '
                       f'{files.info.name}')


def _check_step(files: VolumeFiles, name: str, above: list[Layer]) -> None:
    """Refuse to go on to a layer that cannot be right."""
    if not above:
        files.path(name)
        return
    child = above[-1]
    reason = None
    if not files.owns(name):
        reason = f'it is no file of {files.name}'
    elif any(name == layer.name for layer in above):
        reason = 'the chain is a loop'
    elif len(above) >= MAX_DEPTH:
        reason = f'the chain is longer than {MAX_DEPTH} layers'
    if reason is not None:
        raise errors.BadBacking(file=files.folder / child.name, backing=name,
                                reason=reason)


def _pinned(files: VolumeFiles, name: str, child: Layer | None,
            pinned: Format | None, implied: Format | None) -> Format:
    """Return the one format that everything says a layer has."""
    if child is not None and pinned and implied is not pinned:
        raise errors.FormatMismatch(
            file=files.folder / name, pinned=pinned, found=implied,
            where=f'the header of {child.name}')
    wanted = pinned or implied
    if wanted is None and name != files.name:
        wanted = Format.QCOW2  # overlays are never anything else
    if wanted is None:
        raise errors.BadLayer(file=files.folder / name,
                              reason='no format is pinned for it, and none is '
                                     'guessed; give one (--base-format)')
    if wanted is Format.RAW and name != files.name:
        raise errors.BadLayer(file=files.folder / name,
                              reason='an overlay cannot be raw')
    return wanted


def _layer(files: VolumeFiles, name: str, wanted: Format,
           ) -> tuple[Layer, Format | None]:
    """Return a layer, and the format its header pins for the one below."""
    path = files.path(name)
    if wanted is Format.RAW:
        with open_layer(path) as fd:
            status = os.fstat(fd)
        return Layer(name, wanted, status.st_size,
                     status.st_blocks * 512), None
    header = qcow2.read_header(path)
    layer = Layer(name, wanted, header.virtual_size, header.allocated,
                  header.backing, header.encrypted)
    return layer, header.backing_format


def _check_pair(files: VolumeFiles, upper: Layer, lower: Layer) -> None:
    """Check what a layer and the one below it must have in common."""
    reason = None
    if lower.virtual_size > upper.virtual_size:
        reason = (f'virtual size {upper.virtual_size} is smaller than '
                  f'{lower.virtual_size}, that of {lower.name} below')
    elif upper.encrypted != lower.encrypted:
        reason = (f'is encrypted, but {lower.name} below is not'
                  if upper.encrypted
                  else f'is not encrypted, but {lower.name} below is')
    if reason is not None:
        raise errors.BadLayer(file=files.folder / upper.name, reason=reason)
