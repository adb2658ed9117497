# SPDX-License-Identifier: Apache-2.0
"""No row promises a snapshot whose deletion somebody else has finished."""

from __future__ import annotations

from typing import Any

from cinder import coordination
from cinder import exception
from oslo_config import cfg
import pytest

from tests.functional.cinder.lab.cut import cut_short
from tests.functional.cinder.lab.world import World
from tests.functional.lab import waiting

MIB = 1 << 20


def begun(cinder: World) -> tuple[Any, Any]:
    """A volume in mid-deletion of its older snapshot, and that one.

    The upper layer survives, with the name of what is deleted.
    """
    volume = cinder.volume()
    cinder.write(volume, 0x11)
    older = cinder.snapshot(volume)
    cinder.write(volume, 0x22, length=MIB)
    cinder.snapshot(volume)
    cut_short(cinder, volume, 'write .info',
              lambda operations: operations.delete(older.id))
    return volume, older


def test_finished_upwards_and_asked_for_again(cinder: World) -> None:
    volume, older = begun(cinder)
    cinder.driver.recovery.sweep()
    assert cinder.names(volume)[0].endswith(older.id)
    cinder.driver.delete_snapshot(cinder.become(older, 'deleting'))


@pytest.mark.parametrize('status', ['extending', 'uploading'])
def test_gone_whatever_the_volume_does(cinder: World, status: str) -> None:
    volume, older = begun(cinder)
    cinder.driver.recovery.sweep()
    cinder.become(volume, status)
    cinder.driver.delete_snapshot(cinder.become(older, 'deleting'))


def test_gone_while_an_attachment_changes(cinder: World) -> None:
    volume, older = begun(cinder)
    cinder.driver.recovery.sweep()
    cinder.reserve(volume)
    cinder.become(volume, 'in-use')
    cinder.driver.delete_snapshot(cinder.become(older, 'deleting'))


def test_finished_on_the_way_to_another_snapshot(cinder: World) -> None:
    cfg.CONF.set_override('service_down_time', 60)
    manager = cinder.make_manager()
    cinder.driver = manager.driver
    volume, older = begun(cinder)
    assert cinder.fresh(older).status == 'available'
    cinder.snapshot(volume)
    assert cinder.fresh(older).status == 'deleting'
    cinder.driver.recovery.sweep()
    waiting.until(lambda: gone(cinder, older), 'the row going', 20)


def test_a_manager_that_has_not_said_how_it_went(cinder: World) -> None:
    volume, older = begun(cinder)
    files = sorted(cinder.share.iterdir())
    with coordination.COORDINATOR.get_lock(f'{older.id}-delete_snapshot'):
        assert cinder.driver.recovery.sweep() == []
        assert sorted(cinder.share.iterdir()) == files
    assert cinder.driver.recovery.sweep() != []
    assert cinder.fresh(older).status == 'deleting'


def gone(cinder: World, snapshot: Any) -> bool:
    """Whether a snapshot has no row."""
    try:
        cinder.fresh(snapshot)
    except exception.SnapshotNotFound:
        return True
    return False
