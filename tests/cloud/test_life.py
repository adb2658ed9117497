# SPDX-License-Identifier: Apache-2.0
"""The life of a volume in a cloud, with our hooks and with Nova as released.

While the guest writes, a volume is snapshotted, cloned and merged; every
content is proved record by record, and so is what Cinder, Nova and the share
say.
"""

from __future__ import annotations

import pytest

from tests.cloud.lab.stage import Stage
from tests.functional.lab import content
from tests.functional.lab.guest import Moment

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


@pytest.mark.logs('shut off', 'stopped')
def test_a_server_that_is_shut_off(stage: Stage) -> None:
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
    stage.project.delete_snapshot(going)
    del stage.snapshots[going]
    stage.at_rest()
    stage.server.start()
    stage.go_on(last)
    stage.settled()
    stage.delete(kept)
