# SPDX-License-Identifier: Apache-2.0
"""The life of a volume in a cloud whose Nova knows nothing of us.

nova-compute is as released and there is no agent, so everything goes
through Nova's own assisted-snapshot interface.  While the guest writes, a
volume is snapshotted, cloned and merged; every content is proved record by
record, and so is what Cinder, Nova and the share say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field

import pytest

from tests.cloud.lab.project import Project
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import Settings
from tests.functional.lab import audit
from tests.functional.lab import content
from tests.functional.lab import share
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Moment
from tests.functional.lab.guest import Writer

pytestmark = pytest.mark.timeout(1200)

BLOCKS = 4096
DELAY = 0.002
#: Records written between two steps.
WRITES = 200


@dataclass
class Stage:
    """A volume that a guest writes to, and what is known of it.

    :ivar snapshots: ids, oldest first, with what each must show.
    """

    project: Project
    server: Server
    files: share.Volume
    writer: Writer
    snapshots: dict[str, Bounds] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The volume's id."""
        return self.files.id

    def take(self) -> str:
        """Take a snapshot while the guest writes."""
        self.writer.write_more(WRITES)
        with Moment(self.writer) as moment:
            snapshot = self.project.snapshot(self.id)
        self.snapshots[snapshot] = moment.bounds
        self.settled()
        return snapshot

    def delete(self, snapshot: str) -> None:
        """Delete a snapshot while the guest writes."""
        self.writer.write_more(WRITES)
        self.project.delete_snapshot(snapshot)
        del self.snapshots[snapshot]
        self.settled()

    def stop(self) -> int:
        """Stop writing; the last record, of which none has failed."""
        done = self.writer.stop()
        assert done.acknowledged == done.submitted
        assert done.errors == 0
        return done.acknowledged

    def settled(self) -> None:
        """Everybody says the same, and every snapshot shows its moment."""
        # A file that is written to cannot be checked.
        last = self.stop()
        self.at_rest()
        assert self.server.chain(self.id) == audit.layers(self.files)
        self.writer.start(last)

    def at_rest(self) -> None:
        """The same, as far as no guest is needed."""
        audit.settled(self.files, self.snapshots)
        known = self.project.api.volume.get(
            f'/snapshots/detail?volume_id={self.id}')['snapshots']
        assert {one['id']: one['status'] for one in known} == dict.fromkeys(
            self.snapshots, 'available')
        self.project.volume_becomes(self.id, 'in-use')
        wire = self.project.attachment(self.id)['connection_info']
        assert (wire['name'], wire['format']) == (
            self.files.active.name, self.files.active_format)
        for snapshot, bounds in self.snapshots.items():
            audit.snapshot_holds(self.files, snapshot, self.writer.pattern,
                                 bounds)

    def go_on(self, last: int) -> None:
        """Write on in a guest that was booted anew."""
        self.writer = self.server.writer(self.id, BLOCKS, DELAY)
        self.writer.start(last)

    def volume_from(self, snapshot: str) -> None:
        """Make a volume from a snapshot, prove it and delete it."""
        made = self.project.volume(snapshot_id=snapshot)
        content.prove(self.files.folder / f'volume-{made}', 'raw',
                      self.writer.pattern, self.snapshots[snapshot])
        self.project.delete_volume(made)

    def finish(self) -> None:
        """Stop writing, detach, and prove what is left."""
        last = self.stop()
        self.server.detach(self.id)
        audit.active_holds(self.files, self.writer.pattern,
                           Bounds(last, last))


@pytest.fixture
def stage(settings: Settings, project: Project, server: Server
          ) -> Iterator[Stage]:
    """An attached volume whose guest writes; afterwards nothing is left."""
    volume = project.volume()
    server.attach(volume)
    writer = server.writer(volume, BLOCKS, DELAY)
    writer.start()
    files = share.Volume(settings.share, volume, 'raw', share.GIB)
    stage = Stage(project, server, files, writer)
    yield stage
    stage.finish()
    for snapshot in [*stage.snapshots]:
        project.delete_snapshot(snapshot)
    project.delete_volume(volume)
    left = {path.name for path in settings.share.iterdir()}
    assert left == {'lost+found'}


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
