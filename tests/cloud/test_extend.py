# SPDX-License-Identifier: Apache-2.0
"""An attached volume is extended, from Cinder's interface to the guest.

With our hooks Cinder, Nova, the share and the guest all say the new size
and the guest's writes are whole; where no agent is, nothing changes.
"""

from __future__ import annotations

import pytest

from tests.cloud.lab.growth import agreed
from tests.cloud.lab.growth import ask
from tests.cloud.lab.growth import beyond
from tests.cloud.lab.growth import extend
from tests.cloud.lab.growth import recorded
from tests.cloud.lab.growth import seen
from tests.cloud.lab.growth import sizes
from tests.cloud.lab.stage import Stage
from tests.functional.lab import waiting
from tests.functional.lab.share import GIB
from tests.functional.lab.share import MIB

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.cloud('hooks')
def test_with_and_without_snapshots(stage: Stage) -> None:
    extend(stage, 2)
    assert sizes(stage) == [2]
    beyond(stage, 2 * GIB // MIB - 1)
    oldest, middle = stage.take(), stage.take()
    extend(stage, 3)
    assert sizes(stage) == [2, 2, 3]
    beyond(stage, 3 * GIB // MIB - 1)
    newest = stage.take()
    for snapshot in (middle, newest, oldest):
        stage.delete(snapshot)
    assert (seen(stage), sizes(stage)) == (3 * GIB, [3])
    beyond(stage, 3 * GIB // MIB - 1)
    last = stage.stop()
    stage.server.reboot()
    stage.go_on(last)
    assert seen(stage) == 3 * GIB
    stage.settled()


@pytest.mark.cloud('hooks')
@pytest.mark.logs('shut off', 'stopped')
def test_a_server_that_is_shut_off(stage: Stage) -> None:
    stage.take()
    last = stage.stop()
    stage.server.stop()
    ask(stage, 2)
    agreed(stage, 2)
    assert sizes(stage) == [1, 2]
    stage.at_rest()
    stage.server.start()
    stage.go_on(last)
    assert seen(stage) == 2 * GIB
    beyond(stage, 2 * GIB // MIB - 1)
    stage.settled()


@pytest.mark.cloud('released')
@pytest.mark.logs('No weighed backends', 'No valid backend')
def test_without_agents_nothing_changes(stage: Stage) -> None:
    """The scheduler knows that the backend cannot do it."""
    stage.take()
    ask(stage, 2)

    def refused() -> bool:
        found = stage.project.api.volume.get('/messages')['messages']
        return any(one['resource_uuid'] == stage.id for one in found)
    waiting.until(refused, 'a message to the user', 120)
    assert recorded(stage) == (1, 'in-use')
    stage.settled()
    assert (seen(stage), sizes(stage)) == (GIB, [1, 1])
