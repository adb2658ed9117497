# SPDX-License-Identifier: Apache-2.0
"""Every scenario with both drivers: ours holds, and upstream is seen to fail.

What the page of the documentation says is what this run gives.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.cinder.differential import catalogue
from tests.functional.cinder.differential.scenario import HOLDS
from tests.functional.cinder.differential.scenario import Scenario
from tests.functional.cinder.lab.world import OURS
from tests.functional.cinder.lab.world import UPSTREAM
from tests.functional.lab.stage import Stage


@pytest.mark.parametrize('one', catalogue.scenarios(), ids=lambda one: one.key)
def test_scenario(one: Scenario, cinder_folder: Path, stage: Stage) -> None:
    upstream = one.outcome(cinder_folder / 'upstream', UPSTREAM, stage)
    ours = one.outcome(cinder_folder / 'ours', OURS, stage)
    print(f'{one.title}\nupstream: {upstream}\nours: {ours}')
    assert ours == HOLDS
    assert upstream != HOLDS, 'the scenario cannot fail'
    assert catalogue.row(one, upstream, ours) in catalogue.PAGE.read_text()


def test_page_has_nothing_else() -> None:
    lines = catalogue.PAGE.read_text().splitlines()
    keys = [line.split()[-1] for line in lines if line.startswith('   * - W')]
    assert keys == [one.key for one in catalogue.scenarios()]
