# SPDX-License-Identifier: Apache-2.0
"""What a scenario is, and what came of it.

A scenario does the same with either driver and expects what a user may
expect.  It says nothing of which driver it is.  Where an expectation is
known to break in more than one way, the sentence says what was seen.  An
exception that no expectation covers is a defect of the scenario, never an
outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.functional.cinder.lab.world import OURS
from tests.functional.cinder.lab.world import UPSTREAM
from tests.functional.cinder.lab.world import World
from tests.functional.lab.stage import Stage

HOLDS = 'holds'
#: The agent is not asked: what is compared is the protocol with Nova.
_OPTIONS: dict[str, dict[str, Any]] = {
    UPSTREAM: {}, OURS: {'assisted_agent': 'never'}}


class Broken(Exception):
    """An expectation was not met; the text says what was seen."""


@dataclass(frozen=True)
class Side:
    """One driver in one Cinder.

    :ivar path: the driver's import path.
    :ivar stage: where a guest can be had.
    """

    world: World
    path: str
    stage: Stage

    def driver(self, **options: Any) -> Any:
        """The driver, set up."""
        return self.world.make_driver(self.path,
                                      **_OPTIONS[self.path] | options)

    def manager(self) -> Any:
        """A volume manager around the driver, set up."""
        return self.world.make_manager(self.path, **_OPTIONS[self.path])


@dataclass(frozen=True)
class Scenario:
    """One situation.

    :ivar key: its number in the list of upstream's weaknesses.
    :ivar title: what is done, in a sentence.
    """

    key: str
    title: str
    play: Callable[[Side], None]

    def outcome(self, folder: Path, path: str, stage: Stage) -> str:
        """Play it with one driver in a Cinder of its own."""
        world = World(folder)
        try:
            self.play(Side(world, path, stage))
        except Broken as exc:
            return str(exc)
        finally:
            world.close()
        return HOLDS


ALL: dict[str, Scenario] = {}


def scenario(key: str, title: str) -> Callable[
        [Callable[[Side], None]], Callable[[Side], None]]:
    """Enter a function as a scenario."""
    def enter(play: Callable[[Side], None]) -> Callable[[Side], None]:
        ALL[key] = Scenario(key, title, play)
        return play
    return enter


def expect(condition: object, otherwise: str) -> None:
    """Meet an expectation, or say what was seen."""
    if not condition:
        raise Broken(otherwise)


@contextmanager
def failing(*errors: type[Exception], means: str) -> Iterator[None]:
    """Say what it means if one of these errors comes out."""
    try:
        yield
    except errors as exc:
        raise Broken(means) from exc
