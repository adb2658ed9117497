# SPDX-License-Identifier: Apache-2.0
"""The files of a disk where QEMU is not running: chain, merge, proof.

A thin bridge to :mod:`assisted_snapshots.chain`, which does this work for
detached volumes.  Never unlinks anything.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
from pathlib import Path
from types import MappingProxyType

from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.xml import Disk
from assisted_snapshots.agent.xml import DiskLayer
from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.merge import Merge
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.qemu_img import QemuImg
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.reader import read_layers
from assisted_snapshots.chain.value import Format
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import MergeRequest


def volume_files(folder: str, layer: str) -> VolumeFiles:
    """Return where the files are of the volume that has a layer."""
    return VolumeFiles(Path(folder), layer.partition('.')[0])


def raw_size(path: Path) -> int:
    """Return the virtual size of a raw image."""
    with open_layer(path) as fd:
        return os.fstat(fd).st_size


def layers_on_disk(disk: Disk) -> tuple[DiskLayer, ...]:
    """Return the layers that the headers tell, base first.

    :raises NotSupported: the headers must not be followed; says why.
    """
    active = disk.active
    try:
        chain = read_layers(volume_files(disk.folder, active.name),
                            active.name,
                            {active.name: Format(active.format)})
    except (chain_errors.ChainError, ValueError) as e:
        raise errors.NotSupported(
            reason=f'disk {disk.device}: {e}') from e
    return tuple(DiskLayer(f'{disk.folder}/{n.name}', n.format.value)
                 for n in chain.layers)


def merge_plan(record: Record) -> MergePlan:
    """Return a merge job as the plan it came from."""
    request = record.request
    if not isinstance(request, MergeRequest):
        raise TypeError(record.kind)
    formats = {name: Format(form) for name, form in record.formats.items()}
    return MergePlan(
        volume=volume_files(record.folder, request.before[-1]).name,
        before=request.before, merged=request.merged,
        direction=Direction.DOWN if request.down else Direction.UP,
        formats=MappingProxyType(formats),
        snapshots_before=MappingProxyType({}),
        snapshots_after=MappingProxyType({}), copy_bytes=0, other_bytes=0)


def detached_merge(record: Record, secret: bytes | None,
                   progress: Callable[[float], None] | None = None) -> Merge:
    """Return the merge of a job, to be carried out by qemu-img."""
    plan = merge_plan(record)
    tool = QemuImg(Path(record.folder),
                   Secret(secret) if secret is not None else None, progress)
    return Merge(volume_files(record.folder, plan.before[-1]), plan, tool)


def unlinked(record: Record) -> bool:
    """Tell whether layers that a merge removes are not there any more."""
    plan = merge_plan(record)
    return any(not os.path.lexists(Path(record.folder, name))
               for name in plan.removed)


def cost(record: Record) -> int:
    """Return how many bytes the layers occupy that a merge removes."""
    paths = [Path(record.folder, n) for n in merge_plan(record).removed]
    return sum(p.lstat().st_blocks * 512 for p in paths if p.exists())


def top_mark(record: Record) -> list[int]:
    """Return what changes when a guest writes to the layer it began on."""
    with open_layer(Path(record.folder, merge_plan(record).before[-1])) as fd:
        status = os.fstat(fd)
    return [status.st_size, status.st_mtime_ns]


def left_layers(record: Record) -> dict[str, list[int]]:
    """Return what tells the removed layers from others of their names."""
    found: dict[str, list[int]] = {}
    request = record.request
    if not isinstance(request, MergeRequest):
        return found
    for name in set(request.merged) - {request.survivor}:
        with contextlib.suppress(chain_errors.BadLayer), \
                open_layer(Path(record.folder, name)) as fd:
            status = os.fstat(fd)
            found[name] = [status.st_size, status.st_mtime_ns]
    return found


def as_left(record: Record) -> bool:
    """Tell whether what a merge has left is there unchanged, or unlinked.

    Else a snapshot of the same name has been taken since.
    """
    return all(record.left.get(name) == mark
               for name, mark in left_layers(record).items())


def written_to(record: Record) -> bool:
    """Tell whether a guest has written to the overlays of a snapshot.

    One of the same name that was just made for another attempt is empty.
    """
    request = record.request
    if not isinstance(request, CreateRequest):
        return False
    try:
        return all(any(True for _ in qcow2.mapped(Path(
            record.folders[disk.volume_id], disk.new_file)))
            for disk in request.disks)
    except chain_errors.BadLayer:
        return False
