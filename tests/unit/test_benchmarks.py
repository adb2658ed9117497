# SPDX-License-Identifier: Apache-2.0
"""The bars of the cloud's benchmark can be missed, and rows replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cloud
from benchmarks.overhead import Series
from benchmarks.table import Results

STEPS = (cloud.CREATE, cloud.MIDDLE, cloud.NEWEST, cloud.ONLY)


def _figures(seconds: float, stall: float, copied: int) -> cloud.Figures:
    return cloud.Figures({step: Series([seconds] * 3, [stall] * 3)
                          for step in STEPS}, [copied] * 3, [0] * 3)


def _missed(seconds: float, stall: float, copied: int) -> list[str]:
    results = Results()
    cloud.report(_figures(seconds, stall, copied),
                 _figures(3.0, 0.01, 5000), results)
    return [row.name for row in results.rows if row.held is False]


def test_every_bar_holds() -> None:
    assert _missed(1.0, 0.01, 100) == []


def test_slow() -> None:
    """The delete of the large volume has no bar in seconds."""
    assert _missed(1.01, 0.01, 100) == [f'cloud: {step}'
                                        for step in STEPS[:3]]


def test_stalls() -> None:
    assert _missed(1.0, 0.011, 100) == [
        f'cloud: longest write stall in {step}' for step in STEPS]


def test_copies_too_much() -> None:
    (missed,) = _missed(1.0, 0.01, 101)
    assert 'bytes' in missed


@pytest.mark.parametrize(('keep', 'expected'), [
    (True, {'one': '3', 'two': '2'}), (False, {'one': '3'})])
def test_rows_that_were_not_measured_again(
        tmp_path: Path, keep: bool, expected: dict[str, str]) -> None:
    path = tmp_path / 'rows.json'
    before, after = Results(), Results()
    before.add('one', '1')
    before.add('two', '2')
    before.write(path, keep=keep)
    after.add('one', '3')
    after.write(path, keep=keep)
    assert {row['name']: row['value']
            for row in json.loads(path.read_text())} == expected
