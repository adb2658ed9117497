# SPDX-License-Identifier: Apache-2.0
"""A LUKS-encrypted volume: every layer is, and QEMU gets the secret."""

from __future__ import annotations

from tests.functional.lab import images
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SMALL
from tests.functional.ops.ground import Watched


def all_encrypted(one: Watched) -> None:
    """See that no layer is written in the clear."""
    found = images.chain(one.volume.active, 'qcow2')
    assert [bool(layer.get('encrypted')) for layer in found] == (
        [True] * len(one.live))


def test_every_direction(ground: Ground) -> None:
    """Few layers: QEMU takes seconds to make one, for its key."""
    one = ground.one(encrypted=True)
    s1, _s2, s3 = one.layers(LARGE + 8, SMALL, SMALL, LARGE - 8)
    all_encrypted(one)
    done(one.delete(s1), 'commit')
    done(one.delete(s3), 'pull')
    assert one.live == one.names('', s3)
    all_encrypted(one)
    one.snapshot_contents()
    done(one.flatten(), 'active-commit')
    assert one.live == one.names('')
    one.writer.write_more(FEW)
