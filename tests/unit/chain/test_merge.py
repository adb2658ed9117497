# SPDX-License-Identifier: Apache-2.0
"""Merging on the files: what is proven, what is gone back to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.header import read_header
from assisted_snapshots.chain.merge import Merge
from assisted_snapshots.chain.merge import merge
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.plan import plan_delete
from assisted_snapshots.chain.plan import plan_flatten
from assisted_snapshots.chain.qemu_img import QemuImg
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import tool


@pytest.fixture(params=['raw', 'qcow2'])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    made = Disk(tmp_path / 'share', request.param)
    made.files.folder.mkdir()
    made.make()
    made.write((0, 4 * CLUSTER, 1))
    made.take('s1')
    made.write((2 * CLUSTER, 4 * CLUSTER, 2), (8 * CLUSTER, CLUSTER, 0))
    made.take('s2')
    made.write((5 * CLUSTER, 4 * CLUSTER, 3), (0, CLUSTER, 0))
    made.take('s3')
    made.write((10 * CLUSTER, CLUSTER, 4))
    return made


def planned(disk: Disk, subject: str, direction: Direction) -> MergePlan:
    state = disk.operations().state()
    if subject == 'all':
        plan = plan_flatten(state, allowed={direction})
        assert plan
        return plan
    return plan_delete(state, subject, allowed={direction})


def files(disk: Disk) -> dict[str, bytes]:
    return {path.name: path.read_bytes()
            for path in disk.files.folder.iterdir()}


def top(disk: Disk, plan: MergePlan) -> bytes:
    return disk.content(plan.after[-1])


PLANS = [(subject, direction) for subject in ('s1', 's2', 's3', 'all')
         for direction in Direction]
plans = pytest.mark.parametrize(
    'subject, direction', PLANS, ids=[f'{s}-{d}' for s, d in PLANS])


@plans
def test_a_merge_can_be_done_again(disk: Disk, subject: str,
                                   direction: Direction) -> None:
    plan = planned(disk, subject, direction)
    for _ in range(3):
        merge(disk.files, plan, QemuImg(disk.files.folder))
        assert top(disk, plan) == disk.now
        assert all(disk.files.path(name).exists() for name in plan.removed)


@plans
def test_it_grows_no_more_than_was_said(disk: Disk, subject: str,
                                        direction: Direction) -> None:
    plan = planned(disk, subject, direction)
    survivor = disk.files.path(plan.survivor)
    work = Merge(disk.files, plan, QemuImg(disk.files.folder))
    before = survivor.stat().st_blocks * 512
    needed = work.needed_bytes()
    work.copy()
    grown = survivor.stat().st_blocks * 512 - before
    assert grown <= needed + 2 * CLUSTER  # tables


@pytest.mark.parametrize('subject', ['s1', 's2', 's3', 'all'])
def test_what_was_not_copied_is_not_proven(disk: Disk, subject: str) -> None:
    plan = planned(disk, subject, Direction.UP)
    before = files(disk)
    with pytest.raises(errors.NotProven, match='no file is removed'):
        Merge(disk.files, renamed(disk, plan),
              QemuImg(disk.files.folder)).prove()
    assert files(disk).keys() == before.keys()


def renamed(disk: Disk, plan: MergePlan) -> MergePlan:
    """Change the header as if all had been copied: power was lost then."""
    new = plan.new_backing
    arguments = (['-F', plan.formats[new], '-b', new] if new
                 else ['-b', ''])
    tool('qemu-img', 'rebase', '-u', '-f', 'qcow2', *arguments,
         plan.survivor, cwd=disk.files.folder)
    return plan


@pytest.mark.parametrize('subject', ['s1', 's2', 's3', 'all'])
def test_a_header_that_changed_too_early_is_gone_back_from(
        disk: Disk, subject: str) -> None:
    plan = renamed(disk, planned(disk, subject, Direction.UP))
    assert disk.content(plan.after[-1]) != disk.now
    merge(disk.files, plan, QemuImg(disk.files.folder))
    assert top(disk, plan) == disk.now


@pytest.mark.parametrize('direction', list(Direction))
@pytest.mark.parametrize('changed', ['volume-1.s1', 'volume-1.s2',
                                     'volume-1.s3'])
def test_other_headers_than_planned_stop_it(
        disk: Disk, direction: Direction, changed: str) -> None:
    plan = planned(disk, 's2', direction)
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', 'volume-1.x', '1M',
         cwd=disk.files.folder)
    tool('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b',
         'volume-1.x', changed, cwd=disk.files.folder)
    before = files(disk)
    with pytest.raises(errors.Disagreement, match='volume-1.x'):
        merge(disk.files, plan, QemuImg(disk.files.folder))
    assert files(disk) == before


def test_the_child_is_left_alone_where_it_lies_right(disk: Disk) -> None:
    plan = planned(disk, 's2', Direction.UP)
    child = disk.files.path('volume-1.s3')
    before = child.read_bytes()
    merge(disk.files, plan, QemuImg(disk.files.folder))
    assert child.read_bytes() == before
    assert read_header(child).backing == 'volume-1.s2'


@pytest.mark.parametrize('direction', list(Direction))
def test_layer_that_is_cut_off_is_not_read(disk: Disk, direction: Direction
                                           ) -> None:
    """QEMU reads zeroes from what is not there."""
    plan = planned(disk, 's2', direction)
    name, = plan.removed
    path = disk.files.path(name)
    os.truncate(path, path.stat().st_size // 2)
    before = files(disk)
    with pytest.raises(errors.BadLayer, match=f'{name}: .* truncated'):
        merge(disk.files, plan, QemuImg(disk.files.folder))
    assert files(disk) == before

