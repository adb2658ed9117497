# SPDX-License-Identifier: Apache-2.0
"""QEMU is killed in the middle of a merge.

The guest is started again, stays off, or was transient and is gone.
"""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.rpcapi.messages import Job
from tests.functional.faults.scene import METHODS
from tests.functional.faults.scene import PATIENT
from tests.functional.faults.scene import Scene
from tests.functional.faults.scene import Struck
from tests.functional.lab import audit
from tests.functional.ops.ground import done


@pytest.mark.parametrize('method', METHODS)
def test_guest_is_started_again(scene: Scene, method: str) -> None:
    one = scene.one()
    job, rest = one.flight(method)
    before = one.live
    one.die()
    assert audit.layers(one.volume) == before
    one.live_again()
    one.hurry(job)
    done(rest.result(PATIENT), method)
    assert one.jobs[-1].id == job.id
    one.whole()


def flights(scene: Scene, persistent: bool
            ) -> list[tuple[Struck, Future[Job]]]:
    """A guest for each method, all killed in the middle of a merge."""
    guests = [scene.one(persistent=persistent) for _ in METHODS]
    for one, method in zip(guests, METHODS, strict=True):
        one.aim(method)
    begun = [(one, one.begin()[1]) for one in guests]
    for one, rest in begun:
        before = one.live
        assert not rest.done()
        one.die()
        assert audit.layers(one.volume) == before
    return begun


def test_guests_stay_off(scene: Scene) -> None:
    """Their files are merged, and they are defined to boot from these."""
    for one, rest in flights(scene, persistent=True):
        done(rest.result(PATIENT), one.method)
        assert one.defined() == one.volume.active.name
        assert not one.machine.active()
    one.live_again()
    one.whole()


def test_transient_guests_are_gone(scene: Scene) -> None:
    """The agent can do no more; the caller works on the files."""
    for one, rest in flights(scene, persistent=False):
        with pytest.raises(GuestFailed) as caught:
            rest.result(PATIENT)
        assert caught.value.fields['code'] == 'guest-state'
        one.operations().recover()
        if one.doomed in one.operations().state().snapshots:
            one.operations().delete(one.doomed)
        del one.expected[one.doomed]
