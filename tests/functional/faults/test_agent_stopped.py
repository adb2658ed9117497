# SPDX-License-Identifier: Apache-2.0
"""The agent is stopped in mid-job: block jobs go on without it."""

from __future__ import annotations

import pytest

from tests.functional.faults.scene import METHODS
from tests.functional.faults.scene import PATIENT
from tests.functional.faults.scene import Scene
from tests.functional.lab import audit
from tests.functional.lab import waiting
from tests.functional.lab.share import MIB
from tests.functional.ops.ground import done


@pytest.mark.parametrize('method', METHODS)
def test_terminated_in_mid_job(scene: Scene, method: str) -> None:
    one = scene.one()
    one.aim(method, 12)
    job, rest = one.begin(MIB)
    device = one.machine.device(one.volume)
    assert scene.agent.terminate() == 0
    before = one.machine.domain.blockJobInfo(device)
    waiting.until(lambda: one.machine.domain.blockJobInfo(device)['cur']
                  > before['cur'], 'progress without an agent')
    assert not rest.done()
    scene.restart_agent()
    one.hurry(job)
    done(rest.result(PATIENT), method)
    assert one.jobs[-1].id == job.id
    one.whole()


def test_pull_ends_while_no_agent_runs(scene: Scene) -> None:
    """Its end was seen by nobody, and is found by the next agent."""
    one = scene.one()
    job, rest = one.flight('pull')
    assert scene.agent.terminate() == 0
    one.unlimited()
    waiting.until(lambda: len(one.live) == 1, 'the end of the pull')
    assert one.volume.path.exists()
    scene.restart_agent()
    done(rest.result(PATIENT), 'pull')
    assert one.jobs[-1].id == job.id
    assert audit.layers(one.volume) == (one.volume.active.name,)
    one.whole()
