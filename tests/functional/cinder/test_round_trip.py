# SPDX-License-Identifier: Apache-2.0
"""Volumes go from upstream's driver to ours and back, at any moment.

The model knows contents only.  What upstream's driver does to a volume in
between is what it does in production: it knows no journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cinder.db import api as db
import pytest

from tests.functional.cinder.lab.content import Content
from tests.functional.cinder.lab.world import OURS
from tests.functional.cinder.lab.world import UPSTREAM
from tests.functional.cinder.lab.world import World

MIB = 1 << 20
COW = pytest.mark.parametrize('cow', [False, True], ids=['raw', 'qcow2'])


class Traveller:
    """One volume, and what it and its snapshots must show."""

    def __init__(self, cinder: World, cow: bool) -> None:
        self.cinder = cinder
        self.ours = cinder.make_driver(OURS, nfs_qcow2_volumes=cow)
        self.upstream = cinder.make_driver(UPSTREAM, nfs_qcow2_volumes=cow)
        self.volume: Any = None
        self.held: dict[str, tuple[Any, Content]] = {}
        self._byte = 0

    def make(self, driver: Any) -> None:
        self.volume = self.cinder.volume(driver=driver)
        self.write()

    def write(self) -> None:
        """Hide a part of what is there, and add to it."""
        self._byte += 1
        self.cinder.write(self.volume, self._byte, 0, MIB)
        self.cinder.write(self.volume, self._byte, 2 * self._byte * MIB)

    def take(self, driver: Any) -> Any:
        """Take a snapshot, and go on writing."""
        now = self.cinder.content(self.volume)
        row = self.cinder.snapshot(self.cinder.fresh(self.volume),
                                   driver=driver)
        self.held[row.id] = row, now
        self.write()
        return row

    def delete(self, driver: Any, snapshot: Any) -> None:
        del self.held[snapshot.id]
        self._same(lambda: self.cinder.delete(snapshot, driver=driver))

    def extend(self, driver: Any) -> None:
        volume = self.cinder.fresh(self.volume)
        blocks = self.cinder.content(volume).blocks
        driver.extend_volume(volume, volume.size + 1)
        volume.size += 1
        volume.save()
        assert self.cinder.content(volume).blocks == blocks

    def attach(self, driver: Any) -> None:
        """A guest is given the active layer and its format."""
        connection = driver.initialize_connection(
            self.cinder.fresh(self.volume), {'host': 'compute-1'})
        disk = self.cinder.disk(self.volume)
        assert connection['data']['name'] == disk.active.name
        assert connection['data']['format'] == disk.active_format

    def check(self) -> None:
        """Everything shows what it must, whoever worked on it last."""
        self.cinder.audit(self.volume, *(row for row, _ in
                                         self.held.values()))
        for row, content in self.held.values():
            assert self.cinder.snapshot_content(row) == content, row.id
        for driver in (self.ours, self.upstream, self.ours):
            self.attach(driver)

    def _same(self, work: Callable[[], object]) -> None:
        before = self.cinder.content(self.volume)
        work()
        assert self.cinder.content(self.volume) == before


@COW
@pytest.mark.parametrize('first', ['upstream', 'ours'])
def test_back_and_forth(cinder: World, cow: bool, first: str) -> None:
    one = Traveller(cinder, cow)
    drivers = [one.upstream, one.ours]
    if first == 'ours':
        drivers.reverse()
    this, other = drivers
    one.make(this)
    a = one.take(other)
    b = one.take(this)
    c = one.take(other)
    one.check()
    one.delete(this, b)
    one.check()
    one.delete(other, a)
    one.check()
    one.extend(this)
    d = one.take(this)
    one.extend(other)
    one.check()
    one.delete(other, d)
    one.delete(this, c)
    one.check()
    e = one.take(this)
    one.delete(other, e)
    one.check()
    cinder.delete_volume(one.volume, driver=other)
    assert {path.suffix for path in cinder.share.iterdir()} <= {
        '.journal', '.lock'}


@COW
def test_volumes_of_upstream_are_adopted(cinder: World, cow: bool) -> None:
    """No journal, no base_format, .info cut off by a crash."""
    one = Traveller(cinder, cow)
    one.make(one.upstream)
    a, b = one.take(one.upstream), one.take(one.upstream)
    db.volume_admin_metadata_delete(cinder.admin, one.volume.id,
                                    'base_format')
    (cinder.share / f'{one.volume.name}.info').write_text('')
    one.attach(one.ours)
    c = one.take(one.ours)
    base_format = 'qcow2' if cow else 'raw'
    cinder.audit(one.volume, a, b, c, base_format=base_format)
    assert cinder.formats(one.volume)['base_format'] == base_format
    one.check()
    for snapshot in (b, a, c):
        one.delete(one.ours, snapshot)
        one.check()
