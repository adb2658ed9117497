# SPDX-License-Identifier: Apache-2.0
"""The agent does all its work under oslo.service's eventlet backend too."""

from __future__ import annotations

from tests.functional.faults.scene import METHODS
from tests.functional.faults.scene import PATIENT
from tests.functional.faults.scene import Scene
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW


def test_every_operation_and_a_kill_in_each(scene: Scene) -> None:
    scene.agent.options['DEFAULT.concurrency_backend'] = 'eventlet'
    scene.restart_agent()
    assert b'eventlet' in scene.agent.log.read_bytes()
    one = scene.one()
    for method in METHODS:
        job, rest = one.flight(method)
        scene.restart_agent()
        one.hurry(job)
        done(rest.result(PATIENT), method)
        assert one.jobs[-1].id == job.id
        one.whole()
    one.writer.write_more(FEW)
    done(one.flatten(), one.jobs[-1].method)
    one.create()
    assert scene.agent.terminate() == 0
    scene.agent.start()
    one.whole()
