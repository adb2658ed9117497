# SPDX-License-Identifier: Apache-2.0
"""A commit that the host denies, as AppArmor does on older libvirt.

There the layer cannot be opened for writing either; here it is the file
system that says no.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import subprocess

import pytest

from assisted_snapshots.chain.errors import GuestFailed
from tests.functional.lab.share import MIB
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SMALL


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Let nobody open a file for writing; who has it open keeps it."""
    subprocess.run(['chattr', '+i', path], check=True)
    try:
        yield
    finally:
        subprocess.run(['chattr', '-i', path], check=True)


def test_denied_commits_leave_the_chain_as_it_was(ground: Ground) -> None:
    ground.share = ground.stage.small_share(128 * MIB)
    one = ground.one('raw')
    s1, s2 = one.layers(LARGE, LARGE // 2, SMALL)
    for snapshot, method in ((s1, 'commit'), (s2, 'active-commit')):
        at = one.live.index(one.volume.layer(snapshot).name)
        with immutable(one.volume.folder / one.live[at - 1]), \
                pytest.raises(GuestFailed) as caught:
            one.unchanged(one.delete, snapshot)
        assert caught.value.fields['code'] == 'libvirt-failed'
        assert 'not permitted' in str(caught.value)
        assert (one.jobs[-1].method, one.jobs[-1].state) == (method, 'failed')
    one.writer.write_more(FEW)
    done(one.delete(s1), 'commit')
    done(one.delete(s2), 'active-commit')
