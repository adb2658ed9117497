# SPDX-License-Identifier: Apache-2.0
"""A server that hangs or dies in mid-operation, and a client that dies.

An operation of a client whose server hangs waits and goes on: the mount is
``hard``.  What a server has lost that was killed, it is told again by its
clients in the grace period.
"""

from __future__ import annotations

from collections.abc import Callable
import time

import pytest

from tests.functional.nfs.lab.client import Client
from tests.functional.nfs.lab.network import Network
from tests.functional.nfs.lab.server import LEASE
from tests.functional.nfs.lab.server import Server
from tests.functional.nfs.lab.volume import MIB
from tests.functional.nfs.lab.volume import QEMU
from tests.functional.nfs.lab.volume import Share
from tests.functional.nfs.lab.volume import Volume

INSIDE = 'tests.functional.nfs.inside'
#: Everybody's deadline where a grace period must go by.
PATIENCE = 3 * LEASE


def layered(share: Share, client: Client) -> Volume:
    """A volume of three layers, each with data of its own."""
    volume = Volume(share, 'qcow2', 8 * MIB)
    volume.make(client)
    volume.write(client, (0, 4 * MIB, 1))
    volume.do(client, 'create', 'a')
    volume.write(client, (MIB, 2 * MIB, 2))
    volume.do(client, 'create', 'b')
    volume.write(client, (2 * MIB, 3 * MIB, 3))
    return volume


def hang(server: Server) -> None:
    """The server stops answering for some seconds."""
    server.suspend()
    time.sleep(3)
    server.resume()


def crash(server: Server) -> None:
    """The server dies, and comes back without what was in its memory."""
    server.kill()
    server.start()


@pytest.mark.timeout(400)
@pytest.mark.parametrize('fault', [hang, crash])
def test_an_operation_outlives_its_server(
        fault: Callable[[Server], None], share: Share, one: Client,
        other: Client, server: Server) -> None:
    volume = layered(share, one)
    beside = Volume(share, 'qcow2', name='volume-2')
    beside.make(one)
    writes, later = [(0, MIB, 1)], [(MIB, MIB, 2)]
    held = one.start(f'{INSIDE}.qemu:hold', share.mounted, beside.name,
                     'qcow2', writes, later, user=QEMU)
    assert held.event() == 'open'
    job = volume.start(other, 'delete', 'a', pause=True)
    job.go_until('journal settle')
    fault(server)
    job.finish(PATIENCE)
    volume.verify(one)
    # The guest beside it has kept its locks, and loses no write.
    assert share.opened(other, beside.name)
    held.finish(PATIENCE)
    beside.note(*writes, *later)
    beside.verify(other)


def test_a_client_that_dies_leaves_its_work_to_another(
        share: Share, one: Client, network: Network) -> None:
    """Its locks go when its lease has ended."""
    dying = Client(network, 3)
    try:
        dying.wait()
        share.mount(dying)
        volume = layered(share, one)
        job = volume.start(dying, 'delete', 'b', pause=True)
        job.go_until('prove the copy')
    finally:
        dying.close()
    recovery = volume.start(one, 'recover')
    recovery.result(PATIENCE)
    assert 'b' not in volume.state(one)['snapshots']
    volume.verify(one)
