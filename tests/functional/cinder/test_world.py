# SPDX-License-Identifier: Apache-2.0
"""The laboratory itself: with Cinder's own driver, so that it stands alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.world import UPSTREAM
from tests.functional.cinder.lab.world import World
from tests.functional.lab.agent import Agent
from tests.functional.lab.audit import AuditError
from tests.functional.lab.stage import Stage

MIB = 1 << 20


@pytest.mark.parametrize('options', [{}, {'nfs_qcow2_volumes': True}],
                         ids=['raw', 'qcow2'])
def test_life_of_a_volume(cinder: World, options: dict[str, Any]) -> None:
    driver = cinder.make_driver(UPSTREAM, **options)
    volume = cinder.volume(driver=driver)
    cinder.write(volume, 0x11)
    first = cinder.snapshot(volume, driver=driver)
    cinder.write(volume, 0x22, MIB)
    now = cinder.content(volume)
    assert now.bytes_at(0) == content.digest(0x11)
    assert now.bytes_at(MIB) == content.digest(0x22)
    assert cinder.snapshot_content(first).bytes_at(MIB) == ''
    cinder.audit(volume, first)
    cinder.delete(first, driver=driver)
    cinder.audit(volume)
    assert cinder.content(volume) == now
    cinder.delete_volume(volume, driver=driver)
    assert list(cinder.share.iterdir()) == []


def test_encrypted(cinder: World) -> None:
    volume = cinder.volume(encrypted=True, driver=cinder.upstream)
    cinder.write(volume, 0x33, 5 * MIB)
    assert cinder.content(volume).bytes_at(5 * MIB) == content.digest(0x33)


def test_attachment(cinder: World) -> None:
    volume = cinder.volume(driver=cinder.upstream)
    attachment = cinder.attach(volume, 'compute-7', driver=cinder.upstream)
    assert attachment.connection_info['name'] == volume.name
    assert attachment.attached_host == 'compute-7'
    assert cinder.fresh(volume).status == 'in-use'
    cinder.detach(attachment)
    assert cinder.fresh(volume).status == 'available'


def test_manager(cinder: World) -> None:
    manager = cinder.make_manager(UPSTREAM)
    volume = cinder.row()
    manager.create_volume(cinder.context, volume, request_spec={},
                          filter_properties={})
    assert cinder.fresh(volume).status == 'available'
    snapshot = cinder.snapshot_row(cinder.fresh(volume))
    manager.create_snapshot(cinder.context, snapshot)
    assert cinder.fresh(snapshot).status == 'available'


def test_audit_can_say_no(cinder: World) -> None:
    volume = cinder.volume(driver=cinder.upstream)
    snapshot = cinder.snapshot(volume, driver=cinder.upstream)
    with pytest.raises(AuditError, match='knows snapshots'):
        cinder.audit(volume)
    orphan = cinder.share / f'{volume.name}.orphan'
    orphan.touch()
    with pytest.raises(AuditError, match='nothing refers to'):
        cinder.audit(volume, snapshot)


def test_beside_a_guest_and_its_agent(cinder: World, stage: Stage,
                                      agent: Agent) -> None:
    volume = cinder.volume(driver=cinder.upstream)
    disk = cinder.disk(volume)
    guest = stage.guest(disk)
    guest.start()
    writer = guest.writer(disk, blocks=64)
    writer.start()
    writer.write_more(32)
    writer.stop()
    guest.destroy()
    assert agent.client().list_jobs(volume.id) == ()
    assert len(cinder.content(volume).blocks) >= 32
