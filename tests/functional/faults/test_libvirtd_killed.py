# SPDX-License-Identifier: Apache-2.0
"""libvirtd is killed while a block job runs, waits or ends unattended.

QEMU goes on without it.  No event tells of a job that ended meanwhile: the
live chain is the only witness.
"""

from __future__ import annotations

import pytest

from tests.functional.faults.scene import METHODS
from tests.functional.faults.scene import PATIENT
from tests.functional.faults.scene import Scene
from tests.functional.lab import audit
from tests.functional.lab import waiting
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.share import MIB
from tests.functional.ops.ground import done


def restart(libvirtd: Libvirtd) -> None:
    libvirtd.kill()
    libvirtd.start()


@pytest.mark.parametrize('method', METHODS)
def test_killed_in_mid_job(scene: Scene, libvirtd: Libvirtd, method: str
                           ) -> None:
    one = scene.one()
    job, rest = one.flight(method)
    restart(libvirtd)
    assert not rest.done()
    one.hurry(job)
    done(rest.result(PATIENT), method)
    one.whole()


@pytest.mark.parametrize('method', ['commit', 'pull'])
def test_job_ends_while_libvirtd_is_away(
        scene: Scene, libvirtd: Libvirtd, method: str) -> None:
    one = scene.one()
    job, rest = one.flight(method, MIB // 2)
    before = audit.layers(one.volume)
    libvirtd.kill()
    waiting.until(lambda: len(audit.layers(one.volume)) < len(before),
                  'QEMU re-pointing the layers')
    assert not rest.done()
    libvirtd.start()
    done(rest.result(PATIENT), method)
    assert one.jobs[-1].id == job.id
    one.whole()


def test_killed_when_ready_but_not_pivoted(
        scene: Scene, libvirtd: Libvirtd) -> None:
    one = scene.one()
    job, rest = one.flight('active-commit')
    scene.freeze_agent()
    one.unlimited()
    waiting.until(lambda: "ready='yes'" in one.machine.domain.XMLDesc(),
                  'the active commit being ready')
    restart(libvirtd)
    assert "ready='yes'" in one.machine.domain.XMLDesc()
    assert len(one.live) == 2
    scene.thaw_agent()
    done(rest.result(PATIENT), 'active-commit')
    assert one.jobs[-1].id == job.id
    one.whole()


def test_killed_before_a_snapshot(scene: Scene, libvirtd: Libvirtd) -> None:
    """The agent comes back to it by itself."""
    one = scene.one()
    restart(libvirtd)
    waiting.until(lambda: not scene.client.ping().problem, 'a reconnect')
    one.create()
    restart(libvirtd)
    waiting.until(lambda: not scene.client.ping().problem, 'a reconnect')
    one.delete(next(iter(one.expected)))
    one.whole()


def test_a_request_waits_for_a_libvirtd_that_is_being_started(
        scene: Scene, libvirtd: Libvirtd) -> None:
    one = scene.one()
    libvirtd.kill()
    waiting.until(lambda: scene.client.ping().problem, 'the loss')
    rest = scene.later(scene.agent.client().get_chain, one.volume.id)
    libvirtd.start()
    assert rest.result(PATIENT).names == one.live
    one.create()
    one.whole()
