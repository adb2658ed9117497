# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.cloud.tempest [test]...``: tempest in a cloud.

Without names, all of ``tests.txt``; a name may be a class's or a module's
too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
from pathlib import Path
import sys

from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.settings import Settings
from tests.cloud.tempest import lists
from tests.cloud.tempest import run
from tests.cloud.tempest.workspace import Workspace
from tests.functional.lab import paths

#: Kind -> whether compute hosts have the hooks, and options of the backend.
KINDS: dict[str, tuple[bool, dict[str, str]]] = {
    'hooks': (True, {}),
    'released': (False, {'assisted_agent': 'never'}),
    'upstream': (False, {
        'volume_driver': 'cinder.volume.drivers.nfs.NfsDriver'}),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run tests and say what became of them."""
    parser = argparse.ArgumentParser(prog='python -m tests.cloud.tempest',
                                     description=__doc__)
    parser.add_argument('tests', nargs='*')
    parser.add_argument('--kind', choices=[*KINDS], default='hooks',
                        help='what Cinder and Nova are (%(default)s)')
    parser.add_argument('--cloud', type=Path, metavar='FOLDER',
                        help='a cloud that runs, not one of its own')
    parser.add_argument('--workers', type=int, default=run.WORKERS,
                        help='tests at once (%(default)s)')
    args = parser.parse_args(argv)
    with settings(args.kind, args.cloud) as found:
        workspace = Workspace(found)
        workspace.make()
        known = run.known(workspace)
        tests = [test for test in known if any(
            lists.within(test, name) for name in args.tests)]
        if not args.tests:
            tests = lists.tests()
        results = run.run(workspace, tests, args.workers)
    for name in lists.unlisted(known, lists.tests(), lists.left_out()):
        print(f'nobody has judged {name}')
    for name, outcome in sorted(results.items()):
        print(f'{outcome:<10}{name}')
    failed = [name for name in results if results[name] != run.PASSED]
    print(f'{len(results) - len(failed)} of {len(results)} passed; '
          f'details: {workspace.folder}/output')
    return 1 if failed else 0


@contextlib.contextmanager
def settings(kind: str, folder: Path | None) -> Iterator[Settings]:
    """A cloud: the one in the folder, or a new one of this kind."""
    if folder is not None:
        yield Settings.load(folder)
        return
    hooks, options = KINDS[kind]
    cloud = Cloud(Settings.fresh(paths.TMP / f'cloud/tempest-{kind}',
                                 assisted=hooks, cinder=options), print)
    cloud.up()
    try:
        yield cloud.settings
    finally:
        cloud.down()


if __name__ == '__main__':
    sys.exit(main())
