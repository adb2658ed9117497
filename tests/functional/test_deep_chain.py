# SPDX-License-Identifier: Apache-2.0
"""The deepest chain that libvirt can start a guest on, and no deeper.

libvirt 11.3 reads QEMU's answers about a chain with a JSON parser that goes
32 levels deep: 25 layers.  A running guest can have more, and then never
starts again; QEMU's own names of a layer's file exceed 4 KiB sooner.
"""

from __future__ import annotations

from collections.abc import Callable
import json

import pytest

from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.value import Format
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.guest import AgentGuest
from tests.functional.lab import audit
from tests.functional.lab import images
from tests.functional.lab.agent import Agent
from tests.functional.lab.guest import Guest
from tests.functional.lab.share import Share
from tests.functional.lab.share import Volume

MOST = 24


def grow(share: Share, volume: Volume) -> list[str]:
    """Make a chain of all layers but one; the snapshots, oldest first."""
    info = {'active': volume.name}
    for number in range(MOST - 2):
        overlay = share.overlay(volume, f'snapshot-{number:03}')
        images.io(overlay, 'qcow2', [f'write -q -P {number + 1} '
                                     f'{number}M 64k'])
        info |= {'active': overlay.name, f'snapshot-{number:03}':
                 overlay.name}
        path = volume.folder / f'{volume.name}.info'
        path.write_text(json.dumps(info, indent=1, sort_keys=True))
    return [key for key in info if key != 'active']


def refused(error: errors.AgentError) -> GuestFailed:
    """Keep the agent's error where the operations can pass it on."""
    return GuestFailed(volume=error.code, reason=error)


def test_deepest_chain(share: Share, agent: Agent,
                       guest: Callable[..., Guest]) -> None:
    """It can be made and worked on, it boots, and one more is refused."""
    volume = share.volume('qcow2')
    snapshots = grow(share, volume)
    machine = guest(volume)
    machine.start()
    operations = Operations(
        VolumeFiles(volume.folder, volume.name),
        formats={volume.name: Format.QCOW2},
        guest=AgentGuest(agent.client(), error=refused))
    operations.create('last', 'off')
    with pytest.raises(GuestFailed, match='too-many-layers'):
        operations.create('too-much', 'off')
    assert len(machine.chain(volume)) == MOST
    machine.destroy()
    machine.start()
    snapshots.append('last')
    for snapshot in (snapshots[10], snapshots[-1], snapshots[-2]):
        operations.delete(snapshot)
        snapshots.remove(snapshot)
    assert machine.chain(volume) == audit.layers(volume)
    machine.destroy()
    audit.settled(volume, snapshots)
    images.io(volume.active, 'qcow2', [
        f'read -q -P {number + 1} {number}M 64k'
        for number in range(MOST - 2)])
