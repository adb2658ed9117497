# SPDX-License-Identifier: Apache-2.0
"""A server and two clients for the session; a folder of it for each test."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import os
from pathlib import Path
import re
import shutil
import tempfile

import pytest

from tests.functional.nfs.lab.client import Client
from tests.functional.nfs.lab.network import Network
from tests.functional.nfs.lab.server import Server
from tests.functional.nfs.lab.volume import CINDER
from tests.functional.nfs.lab.volume import GROUP
from tests.functional.nfs.lab.volume import Share


@pytest.fixture(scope='session')
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture(scope='session')
def server(network: Network) -> Iterator[Server]:
    """An NFS server; a test that ends it starts it again."""
    folder = Path(tempfile.mkdtemp(prefix='lab-export-'))
    folder.chmod(0o755)
    made = Server(network, folder)
    made.start()
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def server_lives(server: Server) -> Iterator[None]:
    """Tell a test that waited in vain from one whose server has died."""
    yield
    server.check()


@pytest.fixture(scope='session')
def clients(network: Network, server: Server,
            ) -> Iterator[tuple[Client, Client]]:
    """Two clients that outlive all tests."""
    both = Client(network, 1), Client(network, 2)
    try:
        for client in both:
            client.wait()
        yield both
    finally:
        for client in both:
            client.close()


@pytest.fixture
def make_share(server: Server) -> Iterator[Callable[[str], Share]]:
    """Makes a secure folder of the export: owner, group, nobody else."""
    made = []

    def make(name: str) -> Share:
        folder = server.folder / name
        folder.mkdir()
        os.chown(folder, CINDER.uid, GROUP)
        folder.chmod(0o2770)
        share = Share(folder, server.export(name))
        made.append(share)
        return share

    yield make
    for share in made:
        share.close()


@pytest.fixture
def share(request: pytest.FixtureRequest,
          make_share: Callable[[str], Share],
          clients: tuple[Client, Client]) -> Share:
    """A secure folder that both clients have mounted."""
    made = make_share(re.sub(r'\W+', '-', request.node.name).strip('-'))
    for client in clients:
        made.mount(client)
    return made


@pytest.fixture
def one(clients: tuple[Client, Client]) -> Client:
    return clients[0]


@pytest.fixture
def other(clients: tuple[Client, Client]) -> Client:
    return clients[1]
