# SPDX-License-Identifier: Apache-2.0
"""A request is made again although its work is done.

Whatever the client or the agent has forgotten, no layer is touched that
was not asked for: the snapshots that are left keep their content.
"""

from __future__ import annotations

import shutil

import pytest

from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.chain.errors import SnapshotNotFound
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.guest import AgentGuest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State
from tests.functional.faults.scene import METHODS
from tests.functional.faults.scene import Scene
from tests.functional.faults.scene import Struck
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import LARGE


def layered(one: Struck, method: str) -> str:
    """Four layers; the snapshot whose delete goes by a method."""
    one.pulls = method == 'pull'
    if not one.pulls:
        one.fill(LARGE)
    snapshots = one.stack(300, 100, 100, 200 if one.pulls else FEW)
    return snapshots[0 if method == 'commit' else -1]


def forget(scene: Scene, journal: str) -> None:
    """Restart the agent, with its journal or without."""
    scene.agent.kill()
    if journal == 'lost':
        shutil.rmtree(str(scene.agent.options['state_dir']))
    scene.restart_agent()


@pytest.mark.parametrize('journal', ['kept', 'lost'])
@pytest.mark.parametrize('method', METHODS)
def test_client_that_lost_the_answer(
        scene: Scene, method: str, journal: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """It deletes again; the first time the work had been done."""
    one = scene.one()
    target = layered(one, method)

    class LosesTheAnswer(AgentGuest):
        def merge(self, *request: object) -> None:
            super().merge(*request)  # type: ignore[arg-type]
            raise GuestFailed(volume=one.volume.name, reason='silence',
                              code='peer-silent')
    with monkeypatch.context() as patch:
        patch.setattr('tests.functional.ops.ground.AgentGuest',
                      LosesTheAnswer)
        with pytest.raises(GuestFailed, match='silence'):
            one.delete(target)
    moved = one.live
    assert len(moved) == 3
    forget(scene, journal)
    one.delete(target)
    assert one.live == moved
    one.whole()
    with pytest.raises(SnapshotNotFound):
        one.operations().delete(target)
    one.whole()


@pytest.mark.parametrize('method', METHODS)
def test_request_that_arrives_again(scene: Scene, method: str) -> None:
    """The bare request, before and after files were removed and added."""
    one = scene.one()
    target = layered(one, method)
    request = one.request(one.operations().plan(target), 0)
    one.delete(target)
    first = one.jobs[-1]
    assert one.unchanged(lambda: scene.client.merge(request)).id == first.id
    forget(scene, 'kept')
    assert one.unchanged(lambda: scene.client.merge(request)).id == first.id
    forget(scene, 'lost')
    again = one.unchanged(lambda: one.ended(scene.client.merge(request)))
    assert (again.state, again.id != first.id) == (State.DONE, True)
    one.create()
    assert one.unchanged(lambda: scene.client.merge(request)).id == again.id
    forget(scene, 'lost')
    with pytest.raises(errors.ChainMismatch):
        one.unchanged(lambda: scene.client.merge(request))
    one.whole()


def test_snapshot_asked_for_again(scene: Scene) -> None:
    """It is taken once, at its first moment."""
    one = scene.one()
    snapshot = one.create()
    side = one.guest_side()
    overlay = one.volume.layer(snapshot).name

    def again() -> Job:
        assert side.create(one.volume.id, snapshot, overlay, 'off')
        return one.jobs[-1]
    first = one.jobs[-1]
    one.writer.write_more(FEW)
    assert one.unchanged(again).id == first.id
    forget(scene, 'lost')
    job = one.unchanged(again)
    assert job.id != first.id
    done(job, 'snapshot')
    one.whole()
