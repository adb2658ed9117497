# SPDX-License-Identifier: Apache-2.0
"""Two cinder-volume services of one cluster, one of them killed.

Real processes with eventlet's monkey patching, a real broker, a real
database server.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cinder.db import api as db
import pytest

from assisted_snapshots.chain.names import RESERVED
from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.pair import DOWN
from tests.functional.cinder.lab.pair import Pair
from tests.functional.lab import waiting
from tests.functional.lab.rabbit import Rabbit


@pytest.fixture
def pair(cinder_folder: Path, rabbit: Rabbit, database: str
         ) -> Iterator[Pair]:
    """Both services run."""
    made = Pair(cinder_folder, rabbit.url, database)
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_killed_deleting_the_other_finishes(pair: Pair) -> None:
    world = pair.world
    volume = pair.volume(0x11)
    first = pair.snapshot(volume, 0x22)
    second = pair.snapshot(volume, 0x33)
    before = used(pair)
    pair.hold('commit')
    pair.hold('rebase')
    pair.send_deletion(first)
    dead, = pair.until_held()
    pair.kill(dead)
    pair.release()
    pair.wait(first, 'gone')
    world.audit(volume, second)
    waiting.until(lambda: used(pair) == before - 1, 'the quota')
    assert world.snapshot_content(second).bytes_at(0) == content.digest(0x22)
    assert world.content(volume).bytes_at(0) == content.digest(0x33)


def test_killed_creating_the_other_undoes(pair: Pair) -> None:
    world = pair.world
    volume = pair.volume(0x44)
    before = used(pair)
    pair.hold('create')
    snapshot = pair.send_snapshot(volume)
    dead, = pair.until_held()
    pair.kill(dead)
    pair.release()
    assert pair.wait(snapshot, 'error', 'available') == 'error'
    world.audit(volume)
    assert world.content(volume).bytes_at(0) == content.digest(0x44)
    pair.send_deletion(snapshot)
    pair.wait(snapshot, 'gone')
    waiting.until(lambda: used(pair) == before, 'the quota')


def test_killed_cloning_the_other_calls_it_failed(pair: Pair) -> None:
    world = pair.world
    volume = pair.volume(0x55)
    older = pair.snapshot(volume, 0x66)
    snapshot = pair.snapshot(volume)
    pair.hold('convert')
    row = world.row(snapshot_id=snapshot.id, host=volume.host,
                    cluster_name=volume.cluster_name, size=2)
    pair.send_volume(row)
    dead, = pair.until_held()
    pair.kill(dead)
    pair.release()
    pair.wait(row, 'error', seconds=60 + DOWN)
    world.audit(volume, older, snapshot)
    assert not list(world.share.glob(f'{row.name}*'))
    for row, byte in ((older, 0x55), (snapshot, 0x66)):
        assert world.snapshot_content(row).bytes_at(0) == (
            content.digest(byte))


def test_different_volumes_do_not_wait(pair: Pair) -> None:
    volumes = [pair.volume(byte) for byte in (1, 2, 3, 4)]
    snapshots = [pair.snapshot(volume, 9) for volume in volumes]
    pair.hold('commit')
    pair.hold('rebase')
    for snapshot in snapshots:
        pair.send_deletion(snapshot)
    assert set(pair.until_held(4)) == set(pair.services)
    pair.release()
    for volume, snapshot in zip(volumes, snapshots, strict=True):
        pair.wait(snapshot, 'gone')
        pair.world.audit(volume)


def test_one_volume_is_worked_on_by_one(pair: Pair) -> None:
    world = pair.world
    volume = pair.volume(0x77)
    rows = [pair.snapshot(volume, byte) for byte in (1, 2, 3, 4)]
    pair.hold('commit')
    pair.hold('rebase')
    for row in rows:
        pair.send_deletion(row)
    while len(layers(pair, volume)) > 1:
        assert len(pair.held()) <= 1
        pair.step()
    pair.release()
    for row in rows:
        pair.wait(row, 'gone')
    world.audit(volume)
    assert world.content(volume).bytes_at(0) == content.digest(4)


def layers(pair: Pair, volume: Any) -> list[Path]:
    """Layers that are on the share."""
    return [path for path in pair.world.share.glob(f'{volume.name}*')
            if not path.name.endswith(RESERVED)]


def used(pair: Pair) -> int:
    """Snapshots that the project's quota counts."""
    found = db.quota_usage_get_all_by_project(pair.world.admin, 'project')
    return int(found.get('snapshots', {'in_use': 0})['in_use'])
