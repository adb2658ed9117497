# SPDX-License-Identifier: Apache-2.0
"""Extend: a larger active layer.

This module must never make anything smaller, and never touch a layer that
a snapshot consists of.
"""

from __future__ import annotations

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.merge import image
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import sync_file
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Volume

_SECTOR = 512


def begin_extend(volume: Volume, size: int,
                 state: VolumeState) -> Operation | None:
    """Check and write down a growth; None where it has that size."""
    volume.check_encrypted(state)
    check_size(volume, size, state.chain.virtual_size, 'it has')
    volume.detached(state, 'extend')
    if size == state.chain.virtual_size:
        return None
    operation = Operation('extend', volume.files.name, 'resize', False, {
        'file': state.chain.active.name, 'size': size,
        'from': state.chain.virtual_size})
    volume.begin(operation, state)
    return operation


def carry_on_extend(volume: Volume, operation: Operation) -> None:
    """Make the active layer larger; those below keep their size."""
    name = str(operation.details['file'])
    volume.check_closed(name)
    active = image(volume.files, name, volume.formats())
    volume.step('resize')
    try:
        volume.tool.resize(active, int(operation.details['size']))
    except errors.ImageToolFailed:
        if volume.state().chain.virtual_size == operation.details['from']:
            volume.drop()
        raise
    if active.format is Format.QCOW2:
        volume.step('check the layer')
        volume.tool.mend(active)
    volume.step('flush')
    sync_file(volume.files.path(name))
    volume.finish()


def check_size(volume: Volume, size: int, least: int, who: str) -> None:
    """See that a size is possible.

    :raises BadSize: it is not.
    """
    reason = None
    if size < least:
        reason = f'{who} {least} bytes, and nothing shrinks'
    elif size % _SECTOR and size != least:
        reason = f'it is no multiple of {_SECTOR}'
    if reason:
        raise errors.BadSize(volume=volume.files.name, size=size,
                             reason=reason)
