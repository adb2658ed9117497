# SPDX-License-Identifier: Apache-2.0
"""An overlay that nothing refers to, left by a creation that failed.

Upstream leaves one where it dies between making an overlay and .info.  It is
removed on proof only: the chain is whole without it, nobody has it open,
nothing lies on it, and it has nothing that is not below it too.  A guest
that was moved onto it while .info still names the layer below has written to
it: then it is the volume, and stays.  Killed anywhere it is there or not; it
is asked for again.  This module must never remove a layer.
"""

from __future__ import annotations

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.merge import image
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.reader import strangers
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Volume


def remove_orphan(volume: Volume, snapshot_id: str) -> bool:
    """Remove the overlay of a snapshot that the chain does not have.

    :returns: False where there is no such file.
    :raises SnapshotExists: the chain has the snapshot, or the layer.
    :raises Disagreement: it may hold what is nowhere else.
    """
    name = volume.files.overlay(snapshot_id)
    state = volume.state(ignore=(name,))
    if snapshot_id in state.snapshots or name in state.chain.names:
        raise errors.SnapshotExists(volume=volume.files.name,
                                    snapshot_id=snapshot_id)
    path = volume.files.path(name)
    if not path.exists():
        return False
    live = volume.ask()
    if live is not None and name in live:
        raise volume.disagreement(f'the guest runs on {name}, which '
                                  f'{volume.files.info.name} does not know')
    with volume.guarded(name):
        _check_unused(volume, state, name)
        volume.remove(path)
    return True


def _check_unused(volume: Volume, state: VolumeState, name: str) -> None:
    for other, header in strangers(volume.files, state.chain):
        if header and header.backing == name:
            raise volume.disagreement(f'{other} lies on {name}')
    try:
        header = qcow2.read_header(volume.files.path(name))
    except errors.BadLayer as exc:
        if volume.files.path(name).stat().st_size == 0:
            return  # cut short before anything was in it
        raise volume.disagreement(f'{name} cannot be read: {exc}') from exc
    if next(iter(qcow2.mapped(volume.files.path(name))), None) is None:
        return
    if header.backing not in state.chain.names or not _adds_nothing(
            volume, name, str(header.backing)):
        raise volume.disagreement(
            f'{name} is of no snapshot, but holds data that are nowhere '
            f'else')


def _adds_nothing(volume: Volume, name: str, below: str) -> bool:
    """Tell whether an overlay shows what the layer below it shows."""
    formats = volume.formats()
    over: Image = image(volume.files, name, formats)
    return volume.tool.same(over, image(volume.files, below, formats))
