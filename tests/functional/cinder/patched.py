# SPDX-License-Identifier: Apache-2.0
"""A cinder-volume that eventlet has patched, as it is by default.

Run as ``python -m tests.functional.cinder.patched FOLDER``; prints what it
saw as JSON.  Patching comes before everything else is imported.
"""

from __future__ import annotations

from cinder import monkey_patch

monkey_patch.patch()

import json  # noqa: E402
from pathlib import Path  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import eventlet  # noqa: E402

from tests.functional.cinder.lab import content  # noqa: E402
from tests.functional.cinder.lab import deployment  # noqa: E402
from tests.functional.cinder.lab.world import World  # noqa: E402

MIB = 1 << 20


class Joined(World):
    """The world of a folder that the test has built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.share = folder / 'share'
        self._sections: set[str] = set()
        self._servers: list[Any] = []
        deployment.join(folder)
        self.context = deployment.user()
        self.admin = deployment.admin()


class Heart:
    """Beats in the hub as long as nothing blocks it."""

    def __init__(self) -> None:
        self.beats = 0
        eventlet.spawn(self._beat)

    def _beat(self) -> None:
        while True:
            eventlet.sleep(0.01)
            self.beats += 1


def shown(cinder: World, volume: Any) -> content.Content:
    """What Cinder's own backup would read."""
    row = cinder.fresh(volume)
    row.status = 'backing-up'
    row.save()
    connector = {'host': socket.gethostname()}
    found = cinder.driver.initialize_connection(row, connector)
    try:
        return content.of_raw(Path(found['data']['device_path']))
    finally:
        cinder.driver.terminate_connection(row, connector)
        row.status = 'available'
        row.save()


def life(cinder: World) -> dict[str, Any]:
    """The life of one volume; what it looked like."""
    volume = cinder.volume()
    cinder.write(volume, 0x11, 0, MIB)
    first = cinder.snapshot(volume)
    cinder.write(volume, 0x22, 2 * MIB, MIB)
    second = cinder.snapshot(volume)
    before, seen = cinder.content(volume), shown(cinder, volume)
    copy, clone = cinder.from_snapshot(second, 2), cinder.clone(volume)
    cinder.driver.revert_to_snapshot(cinder.context, cinder.fresh(volume),
                                     second)
    cinder.delete(first)
    cinder.delete(second)
    cinder.audit(volume)
    same = [cinder.content(found).blocks == before.blocks
            for found in (volume, copy, clone)]
    same.append(seen == before)
    for found in (volume, copy, clone):
        cinder.delete_volume(found)
    return {'same': all(same)}


def exclusion(cinder: World) -> int:
    """Several requests for one volume wait for one another, greenly."""
    volume = cinder.volume()
    rows = [cinder.snapshot_row(volume) for _ in range(4)]
    for job in [eventlet.spawn(cinder.take, row) for row in rows]:
        job.wait()
    cinder.audit(volume, *sorted(
        rows, key=lambda row: cinder.names(volume).index(
            f'{volume.name}.{row.id}')))
    return len(cinder.names(volume))


def main(folder: Path) -> None:
    """Run it all, with a heart that beats meanwhile."""
    cinder = Joined(folder)
    _ = cinder.driver
    heart = Heart()
    jobs = [eventlet.spawn(life, cinder) for _ in range(3)]
    found = [job.wait() for job in jobs]
    layers = exclusion(cinder)
    print(json.dumps({'lives': found, 'layers': layers,
                      'beats': heart.beats}))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
