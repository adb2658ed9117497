# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.lab import Lab
from tests.images import Write


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    made: list[Lab] = []

    def make(*layers: Write) -> Lab:
        folder = tmp_path / f'share{len(made)}'
        folder.mkdir()
        made.append(Lab(folder, *layers))
        return made[-1]

    yield make
    for one in made:
        one.qemu.kill()
