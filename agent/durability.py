# SPDX-License-Identifier: Apache-2.0
"""Making a finished merge safe on stable storage, and seeing that it is.

QEMU reports a block job as completed while cluster tables are still in its
memory: killed then, it loses what was copied.  So the survivor is flushed
through QEMU, synced by the host, and its tables are read from the file: all
data of the layers that will go must be mapped there.  QEMU's monitor does
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

from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.value import Format
from assisted_snapshots.rpcapi import errors

if TYPE_CHECKING:
    from assisted_snapshots.agent.hypervisor import Hypervisor


def unwritten_nodes(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of QEMU's nodes that may hold tables in memory.

    Those are the writable qcow2 nodes: raw has no tables, and a layer was
    flushed when QEMU made it read-only again.  They are not told apart by
    file, because QEMU cuts a node's file name off after 4 KiB, which a deep
    chain exceeds.
    """
    return [str(n['node-name']) for n in nodes
            if n.get('drv') == Format.QCOW2 and not n.get('ro')]


def flush(hypervisor: Hypervisor, uuid: str,
          pause_briefly: Callable[[], None]) -> None:
    """Have QEMU write out what it holds of a guest's images in memory.

    :param pause_briefly: what to do where the monitor may not be used: QEMU
        flushes all images when the guest is stopped.
    """
    try:
        nodes = hypervisor.monitor(uuid, 'query-named-block-nodes', flat=True)
        for node in unwritten_nodes(nodes):
            _flush_node(hypervisor, uuid, node)
    except errors.LibvirtFailed:
        if hypervisor.is_running(uuid):
            pause_briefly()


def _flush_node(hypervisor: Hypervisor, uuid: str, node: str) -> None:
    """Flush one node; whether it worked is read from the file later."""
    answer = hypervisor.monitor(
        uuid, 'human-monitor-command',
        **{'command-line': f'qemu-io {node} flush'})
    if answer.strip():
        raise errors.LibvirtFailed(call=f'flush of {node}',
                                   reason=answer.strip())


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
    for name in removed:
        path = folder / name
        if name not in formats or not os.path.lexists(path):
            continue
        data = (qcow2.raw_data_ranges(path) if formats[name] == Format.RAW
                else qcow2.data_ranges(path))
        gap = next(qcow2.gaps(qcow2.mapped(folder / survivor), data), None)
        if gap is not None:
            return (f'{gap[1]} bytes at {gap[0]} of {name} are not mapped '
                    f'in {survivor}')
    return ''
