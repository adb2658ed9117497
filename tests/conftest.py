# SPDX-License-Identifier: Apache-2.0
"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import killer


@pytest.fixture(scope='session')
def killer_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ends a process in the midst of its writes, and more."""
    return killer.build(tmp_path_factory.mktemp('killer'))


@pytest.fixture
def quick_stretching(killer_library: Path) -> Iterator[None]:
    """LUKS measures how slow the CPU is, which takes seconds a layer."""
    with killer.loaded(killer_library):
        yield
