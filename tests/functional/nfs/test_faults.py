# SPDX-License-Identifier: Apache-2.0
"""A server that hangs or dies in mid-operation, and a client that dies.

An operation of a client whose server hangs waits and goes on: the mount is
``hard``.  What a server has lost that was killed, it is told again by its
clients in the grace period.
"""

from __future__ import annotations

import time

import pytest

from tests.functional.nfs.lab.client import Client
from tests.functional.nfs.lab.client import Job
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


def hold(client: Client, volume: Volume) -> Job:
    """A guest beside it: a QEMU that writes before and after the fault."""
    writes, later = [(0, MIB, 1)], [(MIB, MIB, 2)]
    volume.note(*writes, *later)
    held = client.start(f'{INSIDE}.qemu:hold', volume.share.mounted,
                        volume.name, 'qcow2', writes, later, user=QEMU)
    assert held.event() == 'open'
    return held


@pytest.mark.timeout(400)
def test_a_server_that_hangs_at_every_step(
        share: Share, one: Client, other: Client, server: Server) -> None:
    volume = layered(share, one)

    def hang() -> None:
        server.suspend()
        time.sleep(0.2)
        server.resume()

    job = volume.start(one, 'delete', 'a', pause=True)
    job.finish(PATIENCE, meanwhile=hang)
    volume.verify(other)


@pytest.mark.timeout(400)
def test_a_server_that_dies_while_data_are_copied(
        share: Share, one: Client, other: Client, server: Server) -> None:
    """It comes back without what was in its memory; clients have it."""
    volume = layered(share, one)
    beside = Volume(share, 'qcow2', name='volume-2')
    beside.make(one)
    held = hold(one, beside)
    job = volume.start(other, 'delete', 'a', pause=True)
    job.go_until('commit')
    server.suspend()
    job.go_on()
    time.sleep(1)
    server.kill()
    server.start()
    job.finish(PATIENCE)
    volume.verify(one)
    # The guest has kept its locks, and loses no write.
    assert share.opened(other, beside.name)
    held.go_on()
    held.result(PATIENCE)
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
