# SPDX-License-Identifier: Apache-2.0
"""How an attached volume grows, and what everybody says of its size."""

from __future__ import annotations

from tests.cloud.lab import records
from tests.cloud.lab.stage import Stage
from tests.cloud.lab.stage import WRITES
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.share import GIB


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
