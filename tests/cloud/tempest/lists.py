# SPDX-License-Identifier: Apache-2.0
"""The tests that are run, and those that are not, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE / 'tests.txt'
LEFT_OUT = HERE / 'left_out.txt'


def tests() -> list[str]:
    """Ids of the tests that have to pass."""
    return TESTS.read_text().split()


def left_out() -> dict[str, str]:
    """Test, or class or module of tests -> why it is not run."""
    reasons = {}
    for paragraph in LEFT_OUT.read_text().strip().split('\n\n'):
        lines = paragraph.splitlines()
        reason = ' '.join(line.removeprefix('# ') for line in lines
                          if line.startswith('#'))
        reasons.update({line: reason for line in lines
                        if not line.startswith('#')})
    return reasons


def unlisted(known: Iterable[str], tests: Sequence[str],
             places: Iterable[str]) -> list[str]:
    """Tests that nobody has judged, of the modules that tests are run of.

    :param places: what is left out.
    """
    listed = set(tests)
    modules = {test.rsplit('.', 2)[0] for test in tests}
    places = [*places]
    return [test for test in known
            if test.rsplit('.', 2)[0] in modules and test not in listed
            and not any(within(test, place) for place in places)]


def within(test: str, place: str) -> bool:
    """Whether a test is what is named, or in it."""
    return f'{test}.'.startswith(f'{place}.')
