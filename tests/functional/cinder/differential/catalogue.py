# SPDX-License-Identifier: Apache-2.0
"""All scenarios, and the table that they make."""

from __future__ import annotations

import re
import textwrap

from tests.functional.cinder.differential import crashes
from tests.functional.cinder.differential import data
from tests.functional.cinder.differential import formats
from tests.functional.cinder.differential import nova
from tests.functional.cinder.differential import scenario
from tests.functional.lab import paths

#: Importing them has entered their scenarios.
_MODULES = (crashes, data, formats, nova)

PAGE = paths.CHECKOUT / 'doc' / 'source' / 'differential.rst'
_HEAD = '''\
Upstream's driver and this one
==============================

Every line is a scenario that was played with Cinder's own NFS driver and
with this project's, in the same run, on real files; where there is a guest,
it is a real one.  The numbers are those of the list of weaknesses from which
the tests were made.  What holds for this project's driver is tested with
every change, and so is that upstream's is still seen to fail: a scenario in
which it does not would prove nothing.

This page is written by
``python -m tests.functional.cinder.differential --write``.

.. list-table::
   :header-rows: 1
   :widths: 8 40 40 12

   * -
     - What is done
     - Upstream's driver
     - This driver
'''


def scenarios() -> list[scenario.Scenario]:
    """All of them, in the order of their numbers."""
    return sorted(scenario.ALL.values(), key=_order)


def _order(one: scenario.Scenario) -> tuple[int, str]:
    found = re.fullmatch(r'W(\d+)(\w*)', one.key)
    assert found, one.key
    number, letter = found.groups()
    return int(number), letter


def row(one: scenario.Scenario, upstream: str, ours: str) -> str:
    """A line of the table, as the page has it."""
    first, *cells = (_cell(text) for text in (one.key, one.title, upstream,
                                              ours))
    return f'   * - {first}\n' + ''.join(f'     - {cell}\n'
                                         for cell in cells)


def page(rows: list[str]) -> str:
    """The page of the documentation."""
    return _HEAD + ''.join(rows)


def _cell(text: str) -> str:
    return '\n       '.join(textwrap.wrap(text, 70))
