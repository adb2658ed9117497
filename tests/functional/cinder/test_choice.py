# SPDX-License-Identifier: Apache-2.0
"""Who is asked to work on a guest's disk, if the operator leaves it open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import Store
from assisted_snapshots.cinder_driver import asked
from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver.nova_side import NovaSide
from tests.functional.cinder.lab.world import World
from tests.functional.lab.agent import Agent
from tests.functional.lab.rabbit import Rabbit


def chosen(cinder: World, rabbit: Rabbit, host: str) -> type:
    """The side of a volume that a guest of this host has."""
    driver = cinder.make_driver(assisted_agent_transport_url=rabbit.url)
    volume = cinder.volume(driver=driver)
    cinder.attach(volume, host, driver=driver)
    return type(guests.side_for(driver.backend, cinder.fresh(volume)))


@pytest.mark.usefixtures('hooks')
def test_agent_and_hooks(cinder: World, rabbit: Rabbit,
                         agent: Agent) -> None:
    """Both answer: the agent does it."""
    assert chosen(cinder, rabbit, agent.host) is guests.AgentSide


def test_agent_without_hooks(cinder: World, rabbit: Rabbit,
                             make_agent: Callable[..., Agent]) -> None:
    """Nova would start the guest on the wrong layer: it is asked itself."""
    agent = make_agent('compute-8')
    agent.start()
    assert chosen(cinder, rabbit, agent.host) is NovaSide


@pytest.mark.usefixtures('hooks')
def test_another_host(cinder: World, rabbit: Rabbit) -> None:
    """No agent there."""
    assert chosen(cinder, rabbit, 'compute-9') is NovaSide


@pytest.mark.usefixtures('hooks')
@pytest.mark.parametrize('before', [asked.AGENT, asked.NOVA])
def test_unfinished(cinder: World, rabbit: Rabbit, agent: Agent,
                    before: str) -> None:
    """Who was asked for a merge is asked again, whoever answers now."""
    driver = cinder.make_driver(assisted_agent_transport_url=rabbit.url)
    volume = cinder.volume(driver=driver)
    cinder.snapshot(volume, driver=driver)
    snapshot = cinder.snapshot(volume, driver=driver)
    host = agent.host if before == asked.NOVA else 'compute-9'
    cinder.attach(volume, host, driver=driver)
    store = Store(driver.backend.files(volume))
    journal = store.read_journal()
    assert journal is not None
    store.write_journal(replace(journal, operation=Operation(
        'delete', snapshot.id, 'merge', True, {})))
    asked.note(driver.backend, volume, before, snapshot.id)
    side = guests.side_for(driver.backend, cinder.fresh(volume))
    wanted = {asked.AGENT: guests.AgentSide, asked.NOVA: NovaSide}
    assert type(side) is wanted[before]
    store.write_journal(journal)
    side = guests.side_for(driver.backend, cinder.fresh(volume))
    assert type(side) is not wanted[before]
