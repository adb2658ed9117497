# SPDX-License-Identifier: Apache-2.0
"""An attached volume is extended, from Cinder's interface to the guest.

With our hooks Cinder, Nova, the share and the guest all say the new size
and the guest's writes are whole; where no agent is, nothing changes.
"""

from __future__ import annotations

import pytest

from tests.cloud.lab import records
from tests.cloud.lab.stage import Stage
from tests.cloud.lab.stage import WRITES
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.share import GIB
from tests.functional.lab.share import MIB

pytestmark = pytest.mark.timeout(1200)


def seen(stage: Stage) -> int:
    """The size in bytes that the guest sees."""
    device = stage.server.device(stage.id).removeprefix('/dev/')
    return 512 * int(stage.server.run(f'cat /sys/block/{device}/size'))


def sizes(stage: Stage) -> list[int]:
    """The virtual sizes of the layers in GiB, base first."""
    return [layer['virtual-size'] // GIB for layer in images.chain(
        stage.files.active, stage.files.active_format)]


def ask(stage: Stage, size: int) -> None:
    """Ask for a size in GiB."""
    stage.project.api.volume.post(f'/volumes/{stage.id}/action', {
        'os-extend': {'new_size': size}})


def recorded(stage: Stage) -> tuple[int, str]:
    """Size in GiB and status, as Cinder has them."""
    found = stage.project.api.volume.get(f'/volumes/{stage.id}')['volume']
    return found['size'], found['status']


def agreed(stage: Stage, size: int) -> None:
    """Cinder and Nova know the size, in GiB."""
    waiting.until(lambda: recorded(stage) == (size, 'in-use'),
                  f'{size} GiB in Cinder', 120)
    waiting.until(lambda: records.size(stage.settings, stage.id) == size,
                  f'{size} GiB in Nova', 60)


def extend(stage: Stage, size: int) -> None:
    """Extend it while the guest writes; the guest sees it."""
    stage.writer.write_more(WRITES)
    ask(stage, size)
    agreed(stage, size)
    stage.settled()
    assert seen(stage) == size * GIB


def beyond(stage: Stage, megabyte: int) -> None:
    """The guest writes at a place and reads it back; it leaves zeroes."""
    device = stage.server.device(stage.id)
    stage.server.run(
        f'printf mark | dd of={device} bs=1M seek={megabyte} conv=notrunc,'
        f'sync oflag=direct 2>/dev/null && dd if={device} bs=1M count=1 '
        f'skip={megabyte} iflag=direct 2>/dev/null | head -c 4 | grep -q '
        f'^mark && dd if=/dev/zero of={device} bs=1M seek={megabyte} count=1 '
        f'conv=notrunc oflag=direct 2>/dev/null')


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
