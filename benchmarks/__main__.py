# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks: ``tox -e bench`` or ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
import sys

from oslo_service import backend
from rich.console import Console

# Before anything imports oslo.messaging.
backend.init_backend(backend.BackendType.THREADING)


def main() -> int:
    """Measure, print, and say by the status whether all bars hold."""
    from benchmarks import cloud
    from benchmarks import copied
    from benchmarks import driver
    from benchmarks import footprint
    from benchmarks import lab
    from benchmarks import overhead
    from benchmarks.table import Results
    parts = {'overhead': overhead.measure, 'copied': copied.measure,
             'footprint': footprint.measure, 'driver': driver.measure,
             'cloud': cloud.measure}
    parser = argparse.ArgumentParser(prog='python -m benchmarks',
                                     description=__doc__)
    parser.add_argument('part', nargs='*', choices=[[], *parts],
                        help='only these')
    parser.add_argument('--json', type=Path, help='also write them here; '
                        'rows of other parts stay')
    args = parser.parse_args()
    # The clients outlive RabbitMQ by a moment, which is no news here.
    logging.getLogger('oslo.messaging').setLevel(logging.CRITICAL)
    results, console = Results(), Console()
    with lab.running() as servers:
        for name in args.part or parts:
            console.print(f'measuring {name} ...')
            parts[name](servers, results)
    results.show(console)
    if args.json:
        results.write(args.json, keep=bool(args.part))
    return 0 if results.held else 1


if __name__ == '__main__':
    sys.exit(main())
