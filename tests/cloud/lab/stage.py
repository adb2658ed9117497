# SPDX-License-Identifier: Apache-2.0
"""A volume that a guest of the cloud writes to, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field

from tests.cloud.lab import records
from tests.cloud.lab.project import Project
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import Settings
from tests.functional.lab import audit
from tests.functional.lab import content
from tests.functional.lab import share
from tests.functional.lab import waiting
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Moment
from tests.functional.lab.guest import Writer

BLOCKS = 4096
DELAY = 0.002
#: Records written between two steps.
WRITES = 200


@dataclass
class Stage:
    """Every method that changes something proves everything afterwards.

    :ivar snapshots: ids, oldest first, with what each must show.
    """

    settings: Settings
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
        self.project.request_deletion(snapshot)
        self.gone(snapshot)

    def gone(self, snapshot: str) -> None:
        """Wait for the end of a deletion that was asked for."""
        self.project.snapshot_goes(snapshot)
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
        active = self.files.active.name, self.files.active_format
        assert (wire['name'], wire['format']) == active
        self._nova_knows(active)
        for snapshot, bounds in self.snapshots.items():
            audit.snapshot_holds(self.files, snapshot, self.writer.pattern,
                                 bounds)

    def _nova_knows(self, active: tuple[str, str]) -> None:
        """Nova starts the guest on its last layer, whenever that may be.

        With the hooks it knows it before Cinder calls a snapshot taken or
        deleted; as released it asks Cinder what has become of one.
        """
        def known() -> bool:
            data = records.mapping(self.settings, self.id)['data']
            return (data['name'], data['format']) == active
        if self.settings.assisted:
            assert known(), 'Nova does not know the last layer yet'
        else:
            waiting.until(known, 'Nova knowing the last layer', 10)

    def go_on(self, last: int) -> None:
        """Write on in a guest that was booted anew."""
        self.writer = self.server.writer(self.id, BLOCKS, DELAY)
        self.writer.start(last)

    def volume_from(self, snapshot: str) -> None:
        """Make a volume from a snapshot, prove it and delete it."""
        made = self.project.volume(snapshot_id=snapshot)
        content.prove(self.files.folder / f'volume-{made}',
                      self.files.format, self.writer.pattern,
                      self.snapshots[snapshot], secret=self.files.secret)
        self.project.delete_volume(made)

    def finish(self) -> None:
        """Stop writing, detach, and prove what is left."""
        last = self.stop()
        self.server.detach(self.id)
        audit.active_holds(self.files, self.writer.pattern,
                           Bounds(last, last))
