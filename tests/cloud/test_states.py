# SPDX-License-Identifier: Apache-2.0
"""Snapshots of servers that do not simply run, and how those start again.

Where a snapshot can be neither taken nor deleted, Cinder has the reason, and
nothing has changed; whenever the guest is started, and wherever, it is on
its last layer.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cloud.lab.api import HttpError
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.stage import Stage
from tests.functional.lab.content import Bounds

pytestmark = [pytest.mark.timeout(1200), pytest.mark.cloud('hooks')]

REASON = 'assisted_snapshots:reason'


def act(stage: Stage, status: str, **action: object) -> None:
    """Let the server do something, until it has a status."""
    stage.project.act(stage.server.id, status, **action)


def suspend(stage: Stage) -> None:
    """Its memory is saved."""
    act(stage, 'SUSPENDED', suspend=None)


def resume(stage: Stage) -> None:
    """It goes on where it was; its console says nothing anew."""
    act(stage, 'ACTIVE', resume=None)


def rescue(stage: Stage) -> None:
    """Another system runs, without the volumes."""
    act(stage, 'RESCUE', rescue={})


def unrescue(stage: Stage) -> None:
    """Its own system runs again."""
    act(stage, 'ACTIVE', unrescue=None)
    stage.server.wait_ready()


def shelve(stage: Stage) -> None:
    """It is on no host."""
    act(stage, 'SHELVED_OFFLOADED', shelve=None)


def unshelve(stage: Stage) -> None:
    """It is on its host again."""
    act(stage, 'ACTIVE', unshelve={'host': HOSTS[0]})
    stage.server.wait_ready()


def create_is_refused(stage: Stage) -> None:
    """By Cinder's interface, or with the reason in the snapshot."""
    try:
        snapshot = stage.project.request_snapshot(stage.id)
    except HttpError as refused:
        assert refused.http_status == 400, refused
        return
    found = stage.project.snapshot_becomes(snapshot, 'error')
    assert found['metadata'][REASON]
    stage.project.delete_snapshot(snapshot)


def delete_is_refused(stage: Stage, snapshot: str) -> None:
    """The snapshot stays, with the reason."""
    stage.project.request_deletion(snapshot)
    found = stage.project.snapshot_becomes(snapshot, 'available')
    assert found['metadata'][REASON]


@pytest.mark.logs('snapshot busy', 'managed-save', 'no guest there has it',
                  'is reserved')
@pytest.mark.parametrize(('go', 'come'), [
    (suspend, resume), (rescue, unrescue), (shelve, unshelve)])
def test_refused(stage: Stage, go: Callable[[Stage], None],
                 come: Callable[[Stage], None]) -> None:
    snapshot = stage.take()
    last = stage.stop()
    go(stage)
    create_is_refused(stage)
    delete_is_refused(stage, snapshot)
    come(stage)
    stage.go_on(last)
    stage.delete(snapshot)


def take_at_rest(stage: Stage, last: int) -> str:
    """Take a snapshot of what was written last."""
    snapshot = stage.project.snapshot(stage.id)
    stage.snapshots[snapshot] = Bounds(last, last)
    stage.at_rest()
    return snapshot


def delete_at_rest(stage: Stage, snapshot: str) -> None:
    """Delete a snapshot while nothing is written."""
    stage.project.delete_snapshot(snapshot)
    del stage.snapshots[snapshot]
    stage.at_rest()


def test_paused(stage: Stage) -> None:
    """QEMU works for a guest that stands still."""
    before = stage.take()
    last = stage.stop()
    act(stage, 'PAUSED', pause=None)
    made = take_at_rest(stage, last)
    delete_at_rest(stage, before)
    act(stage, 'ACTIVE', unpause=None)
    stage.writer.start(last)
    stage.settled()
    stage.delete(made)


def test_rescued_with_its_volumes(stage: Stage) -> None:
    """What its volumes became while it was rescued is what it starts on."""
    before = stage.take()
    last = stage.stop()
    act(stage, 'RESCUE', rescue={
        'rescue_image_ref': stage.project.rescue_image()})
    stage.server.wait_ready()
    made = take_at_rest(stage, last)
    delete_at_rest(stage, before)
    stage.go_on(last)
    stage.writer.write_more(1)
    last = stage.stop()
    unrescue(stage)
    stage.go_on(last)
    stage.settled()
    stage.delete(made)


def test_rebuilt(stage: Stage) -> None:
    """It gets its volumes back as they are."""
    snapshot = stage.take()
    last = stage.stop()
    act(stage, 'ACTIVE', rebuild={'imageRef': stage.project.image()})
    stage.server.wait_ready()
    stage.go_on(last)
    stage.settled()
    stage.delete(snapshot)


def migrate(stage: Stage) -> None:
    """Move it to the other host, shut off on the way."""
    act(stage, 'VERIFY_RESIZE', migrate=None)
    stage.server.moved(HOSTS[1])
    stage.server.wait_ready()


def revert(stage: Stage) -> None:
    """Back to the host where it was."""
    act(stage, 'ACTIVE', revertResize=None)
    stage.server.moved(HOSTS[0])
    stage.server.wait_ready()


def test_migrated(stage: Stage) -> None:
    """There and back, and there for good: always on the last layer."""
    oldest, newest = stage.take(), stage.take()
    last = stage.stop()
    migrate(stage)
    stage.go_on(last)
    stage.delete(newest)
    there = stage.take()
    last = stage.stop()
    revert(stage)
    stage.go_on(last)
    stage.settled()
    stage.delete(oldest)
    last = stage.stop()
    migrate(stage)
    act(stage, 'ACTIVE', confirmResize=None)
    stage.go_on(last)
    stage.settled()
    stage.server.migrate_live(HOSTS[0])
    stage.settled()
    stage.delete(there)
