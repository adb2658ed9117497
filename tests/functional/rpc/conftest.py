# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a way to the broker, and peers on the other side of it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
import uuid

import oslo_messaging as messaging
import pytest

from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient
from tests.functional.lab.agent import Agent
from tests.functional.lab.rabbit import Rabbit
from tests.functional.rpc.peer import Peer


@pytest.fixture
def host() -> str:
    """A host of its own for each test."""
    return f'host-{uuid.uuid4().hex[:8]}'


@pytest.fixture
def way(rabbit: Rabbit) -> Iterator[messaging.RPCTransport]:
    """A transport of a client."""
    made = transport.make(url=rabbit.url)
    yield made
    made.cleanup()


@pytest.fixture
def client(way: messaging.RPCTransport, host: str) -> AgentClient:
    """A client of the host's agent."""
    return AgentClient(way, host)


@pytest.fixture
def peer(rabbit: Rabbit, host: str) -> Iterator[Callable[..., Peer]]:
    """Makes a peer with the given methods; it listens."""
    made: list[Peer] = []

    def make(**options: object) -> Peer:
        made.append(Peer(rabbit.url, host, **options))  # type: ignore
        return made[-1].start()
    yield make
    for one in made:
        one.close()


@pytest.fixture
def lonely(tmp_path: Path, rabbit: Rabbit, host: str) -> Iterator[Agent]:
    """An agent whose libvirtd is away; not started."""
    made = Agent(tmp_path, f'qemu+unix:///system?socket={tmp_path}/none',
                 rabbit.url, host)
    yield made
    if made.running:
        made.kill()
