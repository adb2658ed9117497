# SPDX-License-Identifier: Apache-2.0
"""Making a finished merge safe on stable storage, and seeing that it is.

QEMU reports a block job as completed while cluster tables are still in its
memory: killed then, it loses what was copied.  So the survivor is flushed
through QEMU, synced by the host, and its tables are read from the file: all
data of the layers that will go must be mapped there, and their zeroes as well
where a layer below would show through.  QEMU's monitor does
not tell reliably whether a flush worked; the file does.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import os
from pathlib import Path
from typing import Any
from typing import TYPE_CHECKING

from assisted_snapshots.agent.xml import DiskLayer
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.value import Format
from assisted_snapshots.rpcapi import errors

if TYPE_CHECKING:
    from assisted_snapshots.agent.hypervisor import Hypervisor


def nodes_to_flush(nodes: Iterable[Mapping[str, Any]],
                   survivor: DiskLayer) -> list[str]:
    """Return the names of QEMU's nodes that may hold a layer in memory.

    libvirt names a node after the layer's index; the one that interprets
    the format flushes the file below it, and raw may have no such node.
    Where libvirt has other names, every writable qcow2 node will do: a layer
    was flushed when it became read-only.  Files do not tell nodes apart:
    QEMU cuts a name off after 4 KiB, which a deep chain exceeds.
    """
    nodes = list(nodes)
    names = {str(n['node-name']) for n in nodes}
    for part in ('format', 'storage'):
        name = f'libvirt-{survivor.index}-{part}'
        if name in names:
            return [name]
    return [str(n['node-name']) for n in nodes
            if n.get('drv') == Format.QCOW2 and not n.get('ro')]


def flush(hypervisor: Hypervisor, uuid: str, survivor: DiskLayer,
          pause_briefly: Callable[[], None]) -> None:
    """Have QEMU write out what it holds of a layer in memory.

    :param pause_briefly: what to do where the monitor may not be used: QEMU
        flushes all images when the guest is stopped.
    :raises LibvirtFailed: QEMU says that it did not work.
    """
    try:
        nodes = hypervisor.monitor(uuid, 'query-named-block-nodes', flat=True)
        answers = {name: _flush_node(hypervisor, uuid, name)
                   for name in nodes_to_flush(nodes, survivor)}
    except errors.LibvirtFailed:
        if hypervisor.is_running(uuid):
            pause_briefly()
        return
    for name, answer in answers.items():
        if answer:
            raise errors.LibvirtFailed(call=f'flush of {name}', reason=answer)


def _flush_node(hypervisor: Hypervisor, uuid: str, node: str) -> str:
    """Flush one node; returns what QEMU complains about."""
    return str(hypervisor.monitor(
        uuid, 'human-monitor-command',
        **{'command-line': f'qemu-io {node} flush'})).strip()


def sync(path: Path) -> None:
    """Have the host write out what it holds of a file."""
    with open_layer(path) as fd:
        os.fsync(fd)


def unproven(folder: Path, survivor: str, removed: Iterable[str],
             formats: Mapping[str, str]) -> str:
    """Return what a survivor is not seen to hold on disk, empty if all.

    A raw survivor needs no proof: there is no table that could lag behind.
    A removed layer that is not there, or whose format is not known, has been
    judged in an earlier run.

    :raises BadLayer: a file cannot be read as what it is.
    """
    sync(folder / survivor)
    if formats.get(survivor) == Format.RAW:
        return ''
    below = qcow2.read_header(folder / survivor).backing is not None
    for name in removed:
        path = folder / name
        if name not in formats or not os.path.lexists(path):
            continue
        if formats[name] == Format.RAW:
            held = qcow2.raw_data_ranges(path)
        else:
            held = qcow2.held(path, over_layers=below)
        gap = next(qcow2.gaps(qcow2.mapped(folder / survivor), held), None)
        if gap is not None:
            return (f'{gap[1]} bytes at {gap[0]} of {name} are not mapped '
                    f'in {survivor}')
    return ''
