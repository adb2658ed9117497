# SPDX-License-Identifier: Apache-2.0
"""The life of a volume in a cloud, with our hooks and with Nova as released.

While the guest writes, a volume is snapshotted, cloned and merged; every
content is proved record by record, and so is what Cinder, Nova and the share
say.
"""

from __future__ import annotations

import pytest

from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.stage import BLOCKS
from tests.cloud.lab.stage import DELAY
from tests.cloud.lab.stage import Stage
from tests.functional.lab import content
from tests.functional.lab import share
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Moment
from tests.functional.lab.guest import Writer

pytestmark = pytest.mark.timeout(1200)


def test_life_of_a_volume(stage: Stage) -> None:
    oldest, middle, newest = (stage.take() for _ in range(3))
    for snapshot in (oldest, middle, newest):
        stage.volume_from(snapshot)
    stage.delete(middle)
    stage.delete(newest)
    stage.volume_from(oldest)
    stage.delete(oldest)
    stage.take()


def test_second_server_from_a_snapshot(stage: Stage) -> None:
    """It reads what the snapshot shows, and writes what the first one never
    sees.
    """
    snapshot = stage.take()
    made = stage.project.volume(snapshot_id=snapshot)
    second = Server.boot(stage.project, stage.settings, HOSTS[1], made)
    files = share.Volume(stage.settings.share, made, 'raw', share.GIB)
    began = content.prove(files.path, 'raw', stage.writer.pattern,
                          stage.snapshots[snapshot])
    # The same records as the first writer's go on where they ended.
    writer = Writer(second, second.device(made), stage.id, BLOCKS, DELAY)
    writer.start(began)
    other = Stage(stage.settings, stage.project, second, files, writer)
    its = other.take()
    stage.delete(snapshot)
    other.delete(its)
    other.finish()
    stage.project.delete_server(second.id)
    stage.project.delete_volume(made)


def test_live_migration(stage: Stage) -> None:
    """Snapshots of one host are deleted on the other, and back again."""
    oldest, newest = stage.take(), stage.take()
    stage.server.migrate_live(HOSTS[1])
    stage.settled()
    stage.delete(newest)
    there = stage.take()
    stage.delete(oldest)
    stage.server.migrate_live(HOSTS[0])
    stage.settled()
    stage.delete(there)


def test_clone_of_a_volume_in_use(stage: Stage) -> None:
    snapshot = stage.take()
    with Moment(stage.writer) as moment:
        clone = stage.project.volume(source_volid=stage.id)
    content.prove(stage.files.folder / f'volume-{clone}', 'raw',
                  stage.writer.pattern, moment.bounds)
    stage.settled()
    stage.delete(snapshot)
    stage.project.delete_volume(clone)


def test_reboots_end_on_the_right_layer(stage: Stage) -> None:
    first = stage.take()
    for again in (stage.server.stop_and_start, stage.server.reboot):
        second = stage.take()
        last = stage.stop()
        again()
        stage.go_on(last)
        stage.settled()
        stage.delete(second)
    stage.delete(first)
    last = stage.stop()
    stage.server.reboot()
    stage.go_on(last)
    stage.settled()


def delete_and_start(stage: Stage, snapshot: str, last: int) -> None:
    """Delete a snapshot of a server that is off, and start it again."""
    stage.project.delete_snapshot(snapshot)
    del stage.snapshots[snapshot]
    stage.at_rest()
    stage.server.start()
    stage.go_on(last)
    stage.settled()


@pytest.mark.cloud('hooks')
def test_a_server_that_is_shut_off(stage: Stage) -> None:
    """All goes on without its guest."""
    kept, going = stage.take(), stage.take()
    last = stage.stop()
    stage.server.stop()
    made = stage.project.snapshot(stage.id)
    stage.snapshots[made] = Bounds(last, last)
    stage.at_rest()
    delete_and_start(stage, going, last)
    stage.delete(made)
    stage.delete(kept)


@pytest.mark.cloud('released')
@pytest.mark.logs('shut off', 'stopped')
def test_a_server_that_a_released_nova_shut_off(stage: Stage) -> None:
    """Its snapshots can be deleted; none can be taken, as Nova would start
    it on the layer below.
    """
    kept, going = stage.take(), stage.take()
    last = stage.stop()
    stage.server.stop()
    refused = stage.project.request_snapshot(stage.id)
    snapshot = stage.project.snapshot_becomes(refused, 'error')
    assert 'start' in snapshot['metadata']['assisted_snapshots:reason']
    stage.project.delete_snapshot(refused)
    stage.at_rest()
    delete_and_start(stage, going, last)
    stage.delete(kept)
