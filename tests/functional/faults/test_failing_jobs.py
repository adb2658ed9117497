# SPDX-License-Identifier: Apache-2.0
"""Jobs that cannot succeed: they fail, say why, and cost nothing.

No file is removed, the guest is unharmed, and once the cause is gone the
same request works.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from assisted_snapshots.chain.errors import BadLayer
from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.rpcapi.messages import State
from tests.functional.faults.damage import damaged
from tests.functional.faults.damage import full
from tests.functional.faults.damage import misalign
from tests.functional.faults.damage import truncate
from tests.functional.faults.scene import METHODS
from tests.functional.faults.scene import PATIENT
from tests.functional.faults.scene import Scene
from tests.functional.lab.share import MIB
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import LARGE


@pytest.mark.parametrize('method', METHODS)
def test_share_runs_full(scene: Scene, method: str) -> None:
    share = scene.stage.small_share(96 * MIB)
    volume = share.volume()
    one = scene.watch(scene.guest(volume), volume, delay=0.001)
    one.aim(method, 12)
    one.idle()
    job, rest = one.begin()
    before = one.live
    with full(share.folder):
        one.unlimited()
        with pytest.raises(GuestFailed) as caught:
            rest.result(PATIENT)
        assert caught.value.fields['code'] == 'block-job-failed'
        failed = scene.client.get_job(job.id)
        assert (failed.state, failed.method) == (State.FAILED, method)
        assert failed.error
        assert one.live == before
        assert volume.files() >= set(before)
    one.write_on()
    one.writer.write_more(FEW)
    one.delete(one.doomed)
    assert one.jobs[-1].id != job.id
    one.whole()


@pytest.mark.parametrize('how', [misalign, truncate])
@pytest.mark.parametrize('base', ['raw', 'qcow2'])
def test_corrupt_layer(scene: Scene, base: str,
                       how: Callable[[Path], None]) -> None:
    """One that is read for a merge; QEMU sees only some of the damage."""
    one = scene.one(base)
    one.fill(LARGE)
    oldest, _ = one.stack(300, 100, FEW)
    request = one.request(one.operations().plan(oldest), 0)
    one.idle()
    one.machine.destroy()
    with damaged(one.volume.layer(oldest), how):
        one.machine.start()
        with pytest.raises(BadLayer, match=oldest):
            one.unchanged(lambda: one.operations().delete(oldest))
        failed = one.unchanged(
            lambda: one.ended(scene.client.merge(request)))
        assert (failed.state, failed.error_code) == (State.FAILED,
                                                     'bad-layer')
        assert oldest in failed.error
        one.machine.destroy()
    one.machine.start()
    one.write_on()
    one.whole()
    one.delete(oldest)
    one.whole()
