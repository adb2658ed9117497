# SPDX-License-Identifier: Apache-2.0
"""Faults in the midst of operations, in a cloud with our hooks.

Every fault strikes once while a snapshot is taken and once while one is
deleted, the kinds of delete in turn; ``python -m tests.cloud.matrix`` plays
all of them, against upstream too.
"""

from __future__ import annotations

from collections.abc import Iterator
import itertools

import pytest

from tests.cloud.lab import records
from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.column import Column
from tests.cloud.lab.faults import AHEAD
from tests.cloud.lab.faults import Fault
from tests.cloud.lab.faults import FAULTS
from tests.cloud.lab.scene import certain
from tests.cloud.lab.scene import Operation
from tests.cloud.lab.verdict import judge
from tests.cloud.lab.verdict import LOST
from tests.cloud.lab.verdict import ORPHAN
from tests.cloud.lab.verdict import STALE
from tests.cloud.lab.verdict import STUCK
from tests.functional.lab.content import Bounds

pytestmark = [pytest.mark.cloud('hooks'), pytest.mark.timeout(900)]

_DELETES = (Operation.MIDDLE, Operation.OLDEST, Operation.NEWEST)


def cases() -> Iterator[tuple[Fault, Operation]]:
    """Faults with creates, which make the snapshots for the deletes.

    With every fault the next kind of delete has its turn.
    """
    turns = itertools.cycle(_DELETES)
    for fault in (one for one in FAULTS if one.often):
        if Operation.CREATE in fault.operations:
            yield fault, Operation.CREATE
        if Operation.ONLY in fault.operations:
            yield fault, next(turns)
    yield FAULTS[0], Operation.ONLY


@pytest.fixture(scope='module')
def column(cloud: Cloud) -> Iterator[Column]:
    """The ground that all faults here strike on."""
    with certain(cloud):
        column = Column(cloud)
        yield column
        column.clear()


@pytest.fixture(autouse=True)
def quiet_logs() -> None:
    """A fault may make any service log an error."""


@pytest.mark.parametrize(('fault', 'operation'), [
    pytest.param(*case, id=f'{case[0].name}-{case[1].value}')
    for case in cases()])
def test_fault(column: Column, fault: Fault, operation: Operation) -> None:
    verdict = column.play(fault, operation)
    assert verdict.sound, verdict.found


@pytest.mark.parametrize(('fault', 'operation'), [
    pytest.param(fault, operation, id=f'{fault.name}-{operation.value}')
    for fault in AHEAD for operation in fault.operations])
def test_cinder_is_ahead_of_nova(column: Column, fault: Fault,
                                 operation: Operation) -> None:
    """A guest that is rebooted hard then starts on its last layer."""
    verdict = column.play(fault, operation)
    assert verdict.sound, verdict.found


def test_a_verdict_can_be_bad(column: Column) -> None:
    """Whatever is wrong with a volume is found, each under its name."""
    column.scene(Operation.OLDEST).prepare()
    scene = column.scene(Operation.CREATE)
    stage, settings = scene.stage, column.cloud.settings
    known = {**stage.snapshots}
    oldest, scene.snapshot, *_, newest = known
    mapping = records.mapping(settings, stage.id)
    orphan = stage.files.folder / f'{stage.files.name}.orphan'
    orphan.touch()
    stage.snapshots[oldest] = Bounds(0, 0)
    del stage.snapshots[newest]
    records.write_mapping(settings, stage.id, mapping | {
        'data': mapping['data'] | {'name': stage.files.name}})
    verdict = judge(scene, 0)
    assert set(verdict.found) == {LOST, ORPHAN, STALE, STUCK}
    orphan.unlink()
    records.write_mapping(settings, stage.id, mapping)
    stage.snapshots.clear()
    stage.snapshots.update(known)
    stage.settled()
