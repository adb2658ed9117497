# SPDX-License-Identifier: Apache-2.0
"""A volume of Cinder's in a running guest, under the verifying writer.

What every snapshot must hold is noted as it is taken; :meth:`InUse.prove`
proves all of it, and that Cinder's records say what the share says.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
import threading
from typing import Any

from cinder import exception
from cinder import objects

from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import Job
from tests.functional.cinder.lab.world import World
from tests.functional.lab import audit
from tests.functional.lab import domain_xml
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Guest
from tests.functional.lab.guest import Moment
from tests.functional.lab.guest import Writer
from tests.functional.lab.stage import Stage

#: Records between two snapshots: enough to tell them apart.
FEW = 60


class InUse:
    """One volume, its attachment, its guest and its writer.

    :ivar expected: snapshot id -> where its content must end, oldest first.
    :ivar taken: the same of all that ever were.
    """

    def __init__(self, world: World, driver: Any, volume: Any) -> None:
        self.world = world
        self.driver = driver
        self.volume = volume
        self.disk = world.disk(volume)
        self.expected: dict[str, Bounds] = {}
        self.taken: dict[str, Bounds] = {}
        self.attachment: Any = None
        self._guest: Guest | None = None
        self._writer: Writer | None = None
        self._last: Bounds | None = None

    @property
    def guest(self) -> Guest:
        """The guest that has the volume."""
        assert self._guest is not None
        return self._guest

    @property
    def writer(self) -> Writer:
        """The writer on it."""
        assert self._writer is not None
        return self._writer

    def join(self, guest: Guest, host: str) -> None:
        """Attach the volume, in Cinder, to a guest that runs with it."""
        self._guest = guest
        self.attachment = self.world.attach(self.volume, host, guest.uuid,
                                            driver=self.driver)

    def write(self, blocks: int = 512) -> None:
        """Start the writer."""
        self._writer = self.guest.writer(self.disk, blocks=blocks)
        self._writer.start()
        self._writer.write_more(FEW)

    def fill(self, megabytes: int) -> None:
        """Make the active layer large, with zeroes where nobody writes."""
        device = self.guest.device(self.disk)
        self.guest.run(f'dd if=/dev/zero of=/dev/{device} bs=1M seek=16 '
                       f'count={megabytes} conv=notrunc,fsync 2>/dev/null')

    # What users do --------------------------------------------------------

    def row(self) -> Any:
        """A snapshot that nobody has taken yet."""
        return self.world.snapshot_row(self.world.fresh(self.volume))

    def take(self, row: Any = None) -> Any:
        """Take a snapshot under load."""
        row = row or self.row()
        with Moment(self.writer) as moment:
            found = self.world.take(row, self.driver)
        self.expected[row.id] = self.taken[row.id] = moment.bounds
        self.writer.write_more(FEW)
        return found

    def begin_delete(self, client: AgentClient
                     ) -> tuple[Any, Job, Future[None]]:
        """Delete a snapshot beneath another; returns amidst the merge.

        The driver must limit its speed.  Returns the snapshot, the job, and
        the deletion that waits for it.
        """
        self.fill(24)
        self.take()
        self.fill(24)
        snapshot = self.take()
        rest = later(self.delete, snapshot)

        def running() -> Job | None:
            assert not rest.done(), rest.result()
            found = client.list_jobs(self.volume.id, True)
            return found[0] if found and found[0].done_bytes else None
        return snapshot, waiting.until(running, 'the merge', 60), rest

    def delete(self, snapshot: Any) -> None:
        """Delete a snapshot, as the manager does it."""
        snapshot = self.world.fresh(snapshot)
        snapshot.status = 'deleting'
        snapshot.save()
        try:
            self.driver.delete_snapshot(snapshot)
        except exception.SnapshotIsBusy:
            snapshot.status = 'available'
            snapshot.save()
            raise
        except Exception:
            snapshot.status = 'error_deleting'
            snapshot.save()
            raise
        snapshot.destroy()
        del self.expected[snapshot.id]

    def delete_failed(self, row: Any) -> None:
        """Delete a snapshot that could not be taken."""
        self.expected[row.id] = Bounds(0, 0)
        self.delete(row)

    def chain(self) -> tuple[str, ...]:
        """The layers as libvirt shows them, base first."""
        return self.guest.chain(self.disk)

    def reason(self, snapshot: Any) -> str:
        """What the user is told of a snapshot that stays."""
        found = self.world.fresh(snapshot)
        return str(found.metadata.get('assisted_snapshots:reason', ''))

    # What must be true ----------------------------------------------------

    def check(self) -> None:
        """Cinder's records and libvirt say what the share says."""
        names = audit.layers(self.world.disk(self.volume))
        if self.guest.active():
            assert self.chain() == names
        info = self.world.fresh(self.attachment).connection_info
        assert (info['name'], info['format']) == (
            names[-1], self.world.disk(self.volume).active_format)
        rows = objects.SnapshotList.get_all_for_volume(self.world.admin,
                                                       self.volume.id)
        assert ({row.id for row in rows if row.status == 'available'}
                == set(self.expected)), [(r.id, r.status) for r in rows]

    def snapshots_hold(self) -> None:
        """Prove every snapshot; the guest may run."""
        disk = self.world.disk(self.volume)
        for snapshot, bounds in self.expected.items():
            audit.snapshot_holds(disk, snapshot, self.writer.pattern, bounds)

    def rest(self) -> None:
        """Stop the writer, and note what it wrote."""
        if self._last is None:
            done = self.writer.stop()
            assert done.acknowledged == done.submitted
            assert done.errors == 0
            self._last = Bounds(done.acknowledged, done.acknowledged)

    def lost(self, bounds: Bounds) -> None:
        """Note where the volume must end, as its guest has died."""
        self._last = bounds

    def prove(self) -> None:
        """Prove everything; ends the guest."""
        if self.guest.active():
            self.rest()
        self.check()
        self.guest.destroy()
        assert self._last is not None, 'nobody knows what was written'
        disk = self.world.disk(self.volume)
        audit.settled(disk, self.expected)
        self.snapshots_hold()
        audit.active_holds(disk, self.writer.pattern, self._last)
        defined = domain_xml.chains(self.guest.domain.XMLDesc(2))
        assert defined[self.disk.id][-1] == disk.active.name
        known = self.world.fresh(self.volume)
        with known.obj_as_admin():
            assert known.admin_metadata['format'] == disk.active_format


def boot(world: World, stage: Stage, driver: Any, host: str,
         *volumes: Any) -> list[InUse]:
    """A guest that writes on all of these volumes."""
    found = [InUse(world, driver, volume) for volume in volumes]
    guest = stage.guest(*(one.disk for one in found))
    guest.define()
    for one in found:
        one.join(guest, host)
    guest.start()
    for one in found:
        one.write()
    return found


def seen(one: InUse) -> int:
    """The size that the guest sees, in bytes."""
    device = one.guest.device(one.disk)
    return 512 * int(one.guest.run(f'cat /sys/block/{device}/size'))


def sizes(one: InUse) -> list[int]:
    """The virtual sizes of the layers, base first."""
    disk = one.world.disk(one.volume)
    return [int(layer['virtual-size']) for layer
            in images.chain(disk.active, disk.active_format)]


def later(work: Callable[..., Any], *args: Any) -> Future[Any]:
    """Do something beside the test."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args))
        except BaseException as error:
            future.set_exception(error)
    threading.Thread(target=run, daemon=True).start()
    return future
