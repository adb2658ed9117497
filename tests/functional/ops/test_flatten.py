# SPDX-License-Identifier: Apache-2.0
"""Flattening a running guest's volume, and cloning from its snapshots."""

from __future__ import annotations

from pathlib import Path

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.value import Format
from tests.functional.lab import images
from tests.functional.lab.share import MIB
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SMALL


def test_flatten_copies_the_overlays_where_the_base_is_large(
        ground: Ground) -> None:
    one = ground.one('raw')
    one.layers(LARGE, SMALL, SMALL)
    done(one.flatten(), 'active-commit')
    assert one.live == one.names('')
    one.writer.write_more(FEW)


def test_flatten_copies_the_base_where_the_overlay_is_large(
        ground: Ground) -> None:
    one = ground.one()
    _s1, s2 = one.layers(SMALL, SMALL, LARGE)
    with pytest.raises(errors.HasSnapshots):
        one.unchanged(one.operations().flatten)
    done(one.flatten(), 'pull')
    assert one.live == one.names(s2)
    one.writer.write_more(FEW)


def test_clone_from_a_snapshot_beside_the_guest(
        ground: Ground, tmp_path: Path) -> None:
    one = ground.one()
    snapshots = one.layers(SMALL, SMALL, SMALL)
    target = tmp_path / 'volume-clone'
    for snapshot, form, size in zip(
            snapshots, (Format.RAW, Format.QCOW2), (None, 80 * MIB),
            strict=True):
        one.operations().clone(snapshot, target, form, size)
        assert images.virtual_size(target, form) == (size or one.volume.size)
        assert len(images.chain(target, form)) == 1
        one.holds(target, form, one.expected[snapshot])
        target.unlink()
    one.writer.write_more(FEW)
