# SPDX-License-Identifier: Apache-2.0
"""Plays all scenarios and prints the table; ``--write`` renews the page."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
import sys
import tempfile

from tests.functional.cinder.differential import catalogue
from tests.functional.cinder.differential.scenario import HOLDS
from tests.functional.cinder.lab.world import OURS
from tests.functional.cinder.lab.world import UPSTREAM
from tests.functional.lab import paths
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.stage import Stage


def main() -> int:
    """Play them; 0 if ours held all and upstream failed in each."""
    parser = argparse.ArgumentParser(
        prog='python -m tests.functional.cinder.differential')
    parser.add_argument('--write', action='store_true',
                        help='renew the page of the documentation')
    parser.add_argument('keys', nargs='*', help='only these, as W12')
    asked = parser.parse_args()
    daemon = Libvirtd()
    daemon.start()
    try:
        rows, good = play(daemon, asked.keys)
    finally:
        daemon.stop()
    if asked.write and not asked.keys:
        catalogue.PAGE.write_text(catalogue.page(rows))
    return 0 if good else 1


def play(daemon: Libvirtd, keys: Collection[str] = ()
         ) -> tuple[list[str], bool]:
    """Play them; lines of the table, and whether all is as it must be."""
    rows, good = [], True
    paths.RUNNING.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.RUNNING) as scratch:
        for one in catalogue.scenarios():
            if keys and one.key not in keys:
                continue
            found = []
            for name, driver in (('upstream', UPSTREAM), ('ours', OURS)):
                stage = Stage(daemon, f'differential-{name}')
                try:
                    found.append(one.outcome(
                        Path(scratch, f'{one.key}-{name}'), driver, stage))
                finally:
                    stage.close()
            print(f'{one.key:5}{one.title}\n     upstream: {found[0]}\n'
                  f'     ours:     {found[1]}', flush=True)
            good &= found[1] == HOLDS != found[0]
            rows.append(catalogue.row(one, *found))
    return rows, good


if __name__ == '__main__':
    sys.exit(main())
