# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, with a deadline and a reason."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import TypeVar

T = TypeVar('T')


class Late(AssertionError):
    """Something did not happen in time."""

    message = '{what} did not happen within {seconds:g} s'

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(self.message.format(what=what, seconds=seconds))


def until(condition: Callable[[], T | None], what: str,
          seconds: float = 60, interval: float = 0.02) -> T:
    """The first true value of ``condition``.

    :raises Late: none came within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Late(what, seconds)
        time.sleep(interval)
