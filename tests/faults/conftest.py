# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import killer


@pytest.fixture(scope='session')
def killer_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killer.build(tmp_path_factory.mktemp('killer'))
