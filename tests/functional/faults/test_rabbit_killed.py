# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ goes away while a job runs: the job does not mind, and the
client hears of its end.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.functional.faults.scene import PATIENT
from tests.functional.faults.scene import Scene
from tests.functional.lab.rabbit import Rabbit
from tests.functional.ops.ground import done


@pytest.mark.parametrize('end', [Rabbit.terminate, Rabbit.kill])
def test_broker_goes_in_mid_job(scene: Scene, rabbit: Rabbit,
                                end: Callable[[Rabbit], None]) -> None:
    one = scene.one()
    job, rest = one.flight('active-commit')
    end(rabbit)
    assert not rest.done()
    one.unlimited()
    rabbit.start()
    done(rest.result(PATIENT), 'active-commit')
    assert one.jobs[-1].id == job.id
    one.create()
    one.whole()
