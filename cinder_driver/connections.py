# SPDX-License-Identifier: Apache-2.0
"""What a host is told to attach.

The volume is locked, so nobody is handed a layer that gets an overlay in
the same moment.  What is handed out has been read from the headers and
agrees with every record; a layer must never be handed out on the word of
.info alone.
"""

from __future__ import annotations

from typing import Any

from cinder import objects

from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.backend import is_attached
from assisted_snapshots.cinder_driver.backend import size_bytes
from assisted_snapshots.cinder_driver.native import native

Connection = dict[str, Any]


def initialize(backend: Backend, volume: objects.Volume,
               connector: Connection) -> Connection:
    """Return the connection info of a volume, in upstream's form."""
    with backend.locked(volume.id), failures.translated():
        fresh = backend.fresh(volume)
        views = backend.driver.views
        if views.is_own(fresh, connector):
            return views.open(fresh, connector)  # type: ignore[no-any-return]
        guests.check_formatting(backend, fresh, connector.get('host', ''))
        views.settle(fresh)
        state = native(_operations(backend, fresh).state)
        check_size(fresh, state)
        backend.note(fresh, state)
        return wire(backend, fresh, state)


def _operations(backend: Backend, volume: objects.Volume) -> Operations:
    """Return what can be done to a volume that is being connected.

    What a crash has cut short ends first.  The new attachment is not there
    yet; any other guest has to be asked.
    """
    if is_attached(volume):
        return guests.settled(backend, volume, at_rest=True)
    return backend.settled(volume, guest=guests.Detached(volume))


def check_size(volume: objects.Volume, state: VolumeState) -> None:
    """Refuse a volume that has grown behind Cinder's back.

    :raises TooLarge: a guest may have written a header of its own.
    """
    if state.chain.virtual_size > size_bytes(volume):
        raise failures.TooLarge(volume=volume.id, size=size_bytes(volume),
                                found=state.chain.virtual_size)


def wire(backend: Backend, volume: objects.Volume,
         state: VolumeState) -> Connection:
    """Return what os-brick and Nova expect of a file on a share."""
    active = state.chain.active
    data = {'export': volume.provider_location, 'name': active.name,
            'format': str(active.format)}
    if volume.provider_location in backend.driver.shares:
        data['options'] = backend.driver.shares[volume.provider_location]
    return {'driver_volume_type': backend.driver.driver_volume_type,
            'data': data,
            'mount_point_base': backend.driver._get_mount_point_base()}
