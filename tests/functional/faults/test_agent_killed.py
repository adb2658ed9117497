# SPDX-License-Identifier: Apache-2.0
"""The agent is killed at every write to its journal.

The client goes on asking, the next agent goes on with the work, and
everything is as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.functional.faults.scene import PATIENT
from tests.functional.faults.scene import Scene
from tests.functional.faults.scene import Struck
from tests.functional.lab import waiting
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import LARGE

MERGED = {'accepted', 'running', 'flushing', 'done'}


def deleting(one: Struck, snapshot: Callable[[], str]
             ) -> Callable[[], Callable[[], object]]:
    """Prepares to delete a snapshot that is chosen when all is ready."""
    def prepare() -> Callable[[], object]:
        chosen = snapshot()
        return lambda: one.delete(chosen)
    return prepare


def test_create(scene: Scene) -> None:
    one = scene.one()

    def prepare() -> Callable[[], object]:
        one.writer.write_more(FEW)
        return one.create
    states = scene.walk(prepare, one.whole)
    assert set(states) == {'accepted', 'running', 'done'}
    assert len(one.expected) == len(states) + 1


def test_commit_in_mid_chain(scene: Scene) -> None:
    one = scene.one()
    one.fill(LARGE)
    one.create()

    def oldest() -> str:
        one.writer.write_more(FEW)
        one.create()
        return next(iter(one.expected))
    states = scene.walk(deleting(one, oldest), one.whole)
    assert set(states) == MERGED
    assert {job.method for job in one.jobs} == {'snapshot', 'commit'}


def test_active_commit(scene: Scene) -> None:
    one = scene.one()
    one.fill(LARGE)

    def only() -> str:
        snapshot = one.create()
        one.writer.write_more(FEW)
        return snapshot
    states = scene.walk(deleting(one, only), one.whole)
    assert set(states) == MERGED | {'pivoting'}
    assert {job.method for job in one.jobs} == {'snapshot', 'active-commit'}


def test_pull_to_a_base(scene: Scene) -> None:
    one = scene.one()
    one.pulls = True
    one.stack(FEW, FEW)

    def newest() -> str:
        snapshot = one.create()
        one.writer.write_more(FEW)
        return snapshot
    states = scene.walk(deleting(one, newest), one.whole)
    assert set(states) == MERGED
    assert {job.method for job in one.jobs} == {'snapshot', 'pull'}
    assert len(one.expected) == 1


def test_flatten(scene: Scene) -> None:
    one = scene.one('raw')
    one.pulls = True

    def prepare() -> Callable[[], object]:
        one.stack(FEW, FEW)
        return one.flatten
    states = scene.walk(prepare, one.whole)
    assert set(states) == MERGED
    assert {job.method for job in one.jobs} == {'snapshot', 'pull'}
    assert one.volume.name not in one.live


def test_agents_that_never_live_long(scene: Scene) -> None:
    """Each is killed at its second write, whatever it has taken up."""
    one = scene.one()
    one.aim('active-commit')
    scene.restart_agent(crash_at=2)
    rest = scene.later(one.delete, one.doomed)

    def over() -> bool:
        scene.revive_agent()
        return rest.done()
    waiting.until(over, 'the end of the delete', PATIENT)
    done(rest.result(), 'active-commit')
    assert len(scene.crashed_at()) >= 3
    one.whole()
