# SPDX-License-Identifier: Apache-2.0
"""Extend: a larger active layer, by qemu-img or in the guest.

A growth can always be repeated: who finds the layer as large as it shall be
has nothing left to do.  So whoever carries one on does it where it can be
done now, in the guest or on the file, wherever it was begun.

=========================  ==============================================
killed                     then
=========================  ==============================================
before the intent          nothing has happened
before the resize          it is done
after the resize           it is found done
=========================  ==============================================

This module must never make anything smaller, and never touch a layer that
a snapshot consists of.
"""

from __future__ import annotations

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.guest import SHUT_OFF
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
    attached = volume.live(state) is not None
    if size == state.chain.virtual_size:
        return None
    operation = Operation('extend', volume.files.name, 'resize', attached, {
        'file': state.chain.active.name, 'size': size,
        'from': state.chain.virtual_size})
    volume.begin(operation, state)
    return operation


def carry_on_extend(volume: Volume, operation: Operation) -> None:
    """Make the active layer larger; those below keep their size."""
    if operation.attached:
        volume.side()
    name = str(operation.details['file'])
    live = volume.ask()
    if live is not None and live[-1] != name:
        raise volume.disagreement(
            f'the guest writes to {live[-1]}, and {name} was to be extended')
    if live is None or not _by_guest(volume, operation):
        with volume.guarded(name):
            _by_tool(volume, operation, name)
    _see(volume, operation)
    volume.finish()


def _by_guest(volume: Volume, operation: Operation) -> bool:
    """Have the guest's side do it; False if there is no QEMU to do it.

    What fails may have come about before, which the header tells; silence
    leaves the intent.
    """
    volume.step('resize in the guest')
    try:
        volume.side().extend(volume.files.id, int(operation.details['size']))
    except errors.GuestFailed as exc:
        if exc.fields.get('code') == SHUT_OFF:
            return False
        if not _done(volume, operation):
            _undo(volume, operation)
            raise
    return True


def _by_tool(volume: Volume, operation: Operation, name: str) -> None:
    """Do it with qemu-img; no guest can start on the layer meanwhile."""
    active = image(volume.files, name, volume.formats())
    volume.step('resize')
    try:
        volume.tool.resize(active, int(operation.details['size']))
    except errors.ImageToolFailed:
        _undo(volume, operation)
        raise
    if active.format is Format.QCOW2:
        volume.step('check the layer')
        volume.tool.mend(active)
    volume.step('flush')
    sync_file(volume.files.path(name))


def _undo(volume: Volume, operation: Operation) -> None:
    """Drop a growth that has not happened."""
    if volume.state().chain.virtual_size == operation.details['from']:
        volume.drop()


def _see(volume: Volume, operation: Operation) -> None:
    """See that the layer is as large as it shall be.

    :raises Disagreement: the header says something else.
    """
    if not _done(volume, operation):
        raise volume.disagreement(
            f'its layer has {volume.state().chain.virtual_size} bytes after '
            f'it was extended to {operation.details["size"]}')


def _done(volume: Volume, operation: Operation) -> bool:
    """Tell whether the layer is as large as it shall be."""
    return bool(volume.state().chain.virtual_size
                == operation.details['size'])


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
