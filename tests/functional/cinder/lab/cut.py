# SPDX-License-Identifier: Apache-2.0
"""What an operation on a detached volume leaves that a crash has cut short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from assisted_snapshots.chain.operations import Operations
from tests.functional.cinder.lab.world import World


class Cut(Exception):
    """Here the service dies."""


def cut_short(world: World, volume: Any, where: str,
              act: Callable[[Operations], object]) -> None:
    """Begin an operation on a detached volume, and die before a step."""
    backend, fresh = world.driver.backend, world.fresh(volume)

    def observe(step: str) -> None:
        if step == where:
            raise Cut

    with pytest.raises(Cut):
        act(Operations(backend.files(fresh), formats=backend.formats(fresh),
                       observer=observe))
