# SPDX-License-Identifier: Apache-2.0
"""What these tests prove with must be able to say no."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.functional.lab.audit import AuditError
from tests.functional.lab.content import Bounds
from tests.functional.lab.content import ContentError
from tests.functional.ops.ground import CONSISTENT
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import SMALL
from tests.functional.ops.ground import Watched


def test_proof_sees_what_is_wrong(ground: Ground) -> None:
    one = ground.one()
    stale = one.machine.xml()
    snapshot, = one.layers(SMALL, SMALL)
    right = one.expected[snapshot]
    ground.settle()
    last = one.last
    assert last is not None
    for wrong in (Bounds(right.highest + 1, last.highest),
                  Bounds(0, right.lowest - 1)):
        one.expected[snapshot] = wrong
        with pytest.raises(ContentError, match='outside'):
            one.prove()
    one.expected[snapshot] = right
    one.last = Bounds(last.lowest + 1, last.highest + 1)
    with pytest.raises(ContentError, match='outside'):
        one.prove()
    one.last = last
    ground.stage.libvirtd.connection.defineXML(stale)
    with pytest.raises(AssertionError, match='in '):
        one.prove()
    ground.stage.libvirtd.connection.defineXML(one.machine.xml())
    change_is_seen(one)


def change_is_seen(one: Watched) -> None:
    """A left-over file, a changed layer and a forgotten snapshot."""
    orphan = one.volume.layer('orphan')
    changes: list[Callable[[], object]] = [
        orphan.touch, one.volume.path.touch, one.files.info.unlink]
    info = one.files.info.read_text()
    one.machine.start()
    for change in changes:
        with pytest.raises(AssertionError, match='=='):
            one.unchanged(change)
    one.files.info.write_text(info)
    one.machine.destroy()
    with pytest.raises(AuditError, match='nothing refers'):
        one.prove()
    orphan.unlink()
    one.expected['s9'] = Bounds(0, 1)
    with pytest.raises(AuditError, match='knows snapshots'):
        one.prove()
    del one.expected['s9']


def test_proof_sees_that_a_file_system_was_not_frozen(
        ground: Ground) -> None:
    volume = ground.share.ext4_volume()
    machine = ground.guest(volume)
    machine.mount(volume)
    one = ground.watch(machine, volume, blocks=256, file='records')
    snapshot, = one.layers(SMALL, SMALL)
    one.labels[snapshot] = CONSISTENT
    with pytest.raises(ContentError, match='not frozen'):
        one.snapshot_contents()
    del one.labels[snapshot]
