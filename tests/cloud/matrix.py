# SPDX-License-Identifier: Apache-2.0
"""Every fault during every operation, upstream's way and ours.

``python -m tests.cloud.matrix --write`` plays all of it in a cloud of each
kind and writes doc/source/faults.rst.  What was played is kept, so that a
part can be played again; what was never played is said to be so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
import fcntl
import json
import os
from pathlib import Path
import sys
import textwrap
import time
import traceback

from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.column import Column
from tests.cloud.lab.column import PATIENCE
from tests.cloud.lab.faults import Fault
from tests.cloud.lab.faults import FAULTS
from tests.cloud.lab.scene import certain
from tests.cloud.lab.scene import Operation
from tests.cloud.lab.settings import Settings
from tests.functional.lab import paths

DOCS = Path(__file__).resolve().parents[2] / 'doc/source'
RESULTS = DOCS / 'faults.json'
PAGE = DOCS / 'faults.rst'
KINDS = ('upstream', 'hooks')
UPSTREAM = 'cinder.volume.drivers.nfs.NfsDriver'
NEVER = 'not played'
#: fault -> operation -> kind -> what became of it.
Results = dict[str, dict[str, dict[str, str]]]

HEAD = f'''\
Faults, upstream and here
=========================

Every line is a fault that struck in the midst of an operation on a snapshot
of a volume that a guest was writing to: with Cinder's own NFS driver and
Nova as it is released, and with this project's driver, agent and hooks, each
in a real OpenStack. Whoever would have finished the operation was held until
the fault had struck, so that the moment is certain, or was away from the
beginning where the line says so. The fault was healed, the
user asked again at most once, and then every content was compared with what
the guest had written, the chain with the records of Cinder and Nova, and the
files with what belongs to the volume.

A cell names all that was found when it was last played, the worst first:

content lost
   The volume, or a snapshot of it, does not hold what the guest had written.
guest down
   The guest does not run, or does not answer.
orphan file
   There is a file of the volume that neither the guest nor a record knows.
stale record
   Cinder, Nova or the driver's file beside the volume has another chain on
   record than the one that the guest uses. The guest's next start, or the
   next operation, goes by the record.
stuck
   A snapshot was still being taken or deleted, or could be neither used nor
   deleted, {PATIENCE} seconds after the fault had been healed. Files and
   records are then not held against it, contents are.
clean
   Nothing of all this; "asked again" if it took the user's second request.

Where the fault left a scenario unable to go on, for instance because the
server did not start any more, what was found then is what counts. A part
that upstream does not have, the agent, is replaced by the one that does its
work there: nova-compute.

This page is written by ``python -m tests.cloud.matrix --write``. {{played}}

.. list-table::
   :header-rows: 1
   :widths: 34 16 30 20

   * - Fault
     - During
     - Upstream
     - Here
'''


def main(argv: Sequence[str] | None = None) -> int:
    """Play what the command line names; 0 if ours was always clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kind', choices=KINDS, action='append',
                        help='only this kind of cloud')
    parser.add_argument('--fault', default='', help='only faults whose name '
                        'has this in it')
    parser.add_argument('--operation', default='',
                        choices=['', *(one.value for one in Operation)])
    parser.add_argument('--missing', action='store_true',
                        help='only what was never played')
    parser.add_argument('--folder', type=Path,
                        default=paths.TMP / 'cloud/matrix')
    parser.add_argument('--write', action='store_true',
                        help='keep the results and write the page')
    args = parser.parse_args(argv)
    results = load()
    wanted = [(fault, operation) for operation in Operation
              for fault in FAULTS if operation in fault.operations
              and args.fault in fault.name
              and args.operation in ('', operation.value)]
    bad = 0
    for kind in args.kind or KINDS:
        chosen = [one for one in wanted if not args.missing
                  or known(results, *one, kind) == NEVER]
        if chosen:
            bad += _play(kind, args.folder, chosen, write=args.write)
    if args.write:
        _replace(PAGE, page(load()))
    print(table(load()))
    return int(bool(bad))


def _play(kind: str, folder: Path,
          wanted: Sequence[tuple[Fault, Operation]], *, write: bool
          ) -> int:
    """Play in a cloud of one kind; how many of ours were not clean."""
    cloud = Cloud(settings(kind, folder.with_name(f'{folder.name}-{kind}')),
                  print)
    cloud.up()
    bad = 0
    try:
        with certain(cloud):
            column = Column(cloud)
            for fault, operation in wanted:
                said, sound = _one(column, fault, operation)
                bad += kind == 'hooks' and not sound
                if write:
                    keep(fault, operation, kind, said)
    finally:
        cloud.down()
    return bad


def _one(column: Column, fault: Fault, operation: Operation
         ) -> tuple[str, bool]:
    begun = time.monotonic()
    try:
        verdict = column.play(fault, operation)
    except Exception:
        print(f'{fault.name} / {operation.value} was not played:')
        traceback.print_exc(file=sys.stdout)
        return NEVER, False
    said = str(verdict)
    if verdict.sound and verdict.asked_again:
        said += ', asked again'
    print(f'{fault.name} / {operation.value}: {said} '
          f'({time.monotonic() - begun:.0f} s)', flush=True)
    details = verdict.found | {'broken off': verdict.broken_off}
    for what, reason in details.items():
        if reason:
            print(textwrap.indent(f'{what}: {reason}', '    '), flush=True)
    return said, verdict.sound


def settings(kind: str, folder: Path) -> Settings:
    """Settings of a cloud of one kind."""
    if kind == 'hooks':
        return Settings.fresh(folder)
    return Settings.fresh(folder, assisted=False,
                          cinder={'volume_driver': UPSTREAM})


def known(results: Results, fault: Fault, operation: Operation,
          kind: str) -> str:
    """What became of one fault, the last time."""
    return results.get(fault.name, {}).get(operation.value, {}).get(
        kind, NEVER)


def load() -> Results:
    """What has been kept."""
    return dict(json.loads(RESULTS.read_text()))


def keep(fault: Fault, operation: Operation, kind: str, said: str) -> None:
    """Keep one result, and write the page; others may be at it too."""
    with _alone():
        results = load()
        results.setdefault(fault.name, {}).setdefault(
            operation.value, {})[kind] = said
        _replace(RESULTS, json.dumps(results, indent=1) + '\n')
        _replace(PAGE, page(results))


@contextmanager
def _alone() -> Iterator[None]:
    folder = os.open(DOCS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    """Write a file that nobody sees in part."""
    new = path.with_name(f'.{path.name}.new')
    new.write_text(text)
    new.replace(path)


def page(results: Results) -> str:
    """The page of the documentation."""
    rows = [f'   * - {fault}\n     - {operation}\n     - {upstream}\n'
            f'     - {ours}\n' for fault, operation, upstream, ours
            in _rows(results)]
    return HEAD.format(played=_played(results)) + ''.join(rows)


def _played(results: Results) -> str:
    """How much of it was played at all."""
    cells = [row[2:] for row in _rows(results)]
    upstream, ours = (sum(one != NEVER for one in column)
                      for column in zip(*cells, strict=True))
    return (f'{upstream} of {len(cells)}\nlines were played upstream, '
            f'{ours} here.')


def table(results: Results) -> str:
    """The same for a terminal."""
    return '\n'.join(f'{fault:<50} {operation:<14} {upstream:<36} {ours}'
                     for fault, operation, upstream, ours in _rows(results))


def _rows(results: Results) -> list[tuple[str, str, str, str]]:
    return [(fault.name, operation.value,
             known(results, fault, operation, 'upstream'),
             known(results, fault, operation, 'hooks'))
            for fault in FAULTS for operation in fault.operations]


if __name__ == '__main__':
    sys.exit(main())
