# SPDX-License-Identifier: Apache-2.0
"""The gate: lint, types, docs, and all tests; run it by ``tools/test``.

Every step runs, whatever happened before it, and the last line sums all of
them up as pytest would.  A step that ran no test, or that left a test out,
has failed: silence must not look like success.

Steps that mostly wait run beside the others, one after another; what such a
step prints appears at its end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import configparser
from dataclasses import dataclass
from dataclasses import field
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import IO
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TMP = ROOT / '.tmp'
RESULTS = TMP / 'results'
#: A tree in which the import package looks as it does when installed: mypy
#: does not follow the import hook of an editable install.
NAMESPACE = TMP / 'namespace'
WIDTH = 79


@dataclass(frozen=True)
class Outcome:
    """What came of one step."""

    passed: int = 0
    failed: Sequence[str] = ()
    errors: Sequence[str] = ()
    left_out: Sequence[str] = ()

    @property
    def good(self) -> bool:
        """Something passed, and nothing else happened."""
        return bool(self.passed) and not (self.failed or self.errors
                                          or self.left_out)


#: Runs; its output goes to a file, or where that of the gate goes.
Step = Callable[[IO[bytes] | None], Outcome]


@dataclass
class Report:
    """All steps that have ended.

    :ivar seconds: of each step.
    :ivar whole: seconds of all of them together.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    whole: float = 0

    def run(self, name: str, output: IO[bytes] | None = None) -> None:
        """Run a step."""
        begun = time.monotonic()
        outcome = STEPS[name](output)
        self.seconds[name] = time.monotonic() - begun
        self.outcomes[name] = outcome

    @property
    def good(self) -> bool:
        """Every step was good, and there was one."""
        return bool(self.outcomes) and all(
            outcome.good for outcome in self.outcomes.values())

    def lines(self) -> list[str]:
        """What failed, a line per step, and the summary."""
        found = [_title('summary')]
        for name, outcome in self.outcomes.items():
            for word, what in (('FAILED', outcome.failed),
                               ('ERROR', outcome.errors),
                               ('SKIPPED', outcome.left_out)):
                found += [f'{word} {name}: {test}' for test in what]
        for name, outcome in self.outcomes.items():
            verdict = 'ok' if outcome.good else 'FAILED'
            found.append(f'{name:<14}{verdict:<8}{outcome.passed:>6} passed'
                         f'{self.seconds[name]:>9.1f} s')
        return [*found, self._last_line()]

    def _last_line(self) -> str:
        """As pytest's: counts, then seconds."""
        outcomes = self.outcomes.values()
        counts = {'failed': sum(len(o.failed) for o in outcomes),
                  'passed': sum(o.passed for o in outcomes),
                  'skipped': sum(len(o.left_out) for o in outcomes),
                  'errors': sum(len(o.errors) for o in outcomes)}
        said = ', '.join(f'{n} {word}' for word, n in counts.items() if n)
        return _title(f'{said} in {self.whole:.2f}s')


def _one_by_one(report: Report, names: Sequence[str]) -> None:
    for name in names:
        print(_title(name), flush=True)
        report.run(name)


def _beside(report: Report, names: Sequence[str]) -> None:
    for name in names:
        path = RESULTS / f'{name}.log'
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('wb') as output:
            report.run(name, output)
        print(_title(name) + '\n' + path.read_text(errors='replace'),
              flush=True)


def _title(text: str) -> str:
    return f'{f" {text} ":=^{WIDTH}}'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps; 0 if all of them were good."""
    parser = argparse.ArgumentParser(prog='tools/test')
    parser.add_argument('steps', nargs='*', choices=[[], *STEPS],
                        metavar='step', help=f'of {", ".join(STEPS)}')
    chosen = parser.parse_args(argv).steps or [*STEPS]
    report, begun = Report(), time.monotonic()
    first = [name for name in chosen if name not in BESIDE] or chosen
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(
            _beside, report, [name for name in chosen if name not in first])
        _one_by_one(report, first)
        others.result()
    report.whole = time.monotonic() - begun
    print('\n'.join(report.lines()))
    return 0 if report.good else 1


def lint(output: IO[bytes] | None) -> Outcome:
    """ruff, in the spirit of OpenStack's hacking."""
    return _tool(output, 'ruff', 'check', '.')


def types(output: IO[bytes] | None) -> Outcome:
    """mypy, strict, of every room and of what tests them."""
    rooms = _namespace()
    packages = [part for room in [*rooms, 'tests', 'tools', 'benchmarks']
                for part in ('-p', room)]
    return _tool(output, 'mypy', *packages, MYPYPATH=str(NAMESPACE))


def docs(output: IO[bytes] | None) -> Outcome:
    """The documentation; a warning is an error."""
    return _tool(output, 'sphinx-build', '-W', '-q', '-E', '-b', 'html',
                 '-d', str(TMP / 'doctrees'), 'doc/source', str(TMP / 'html'))


def pytest(name: str, *arguments: str) -> Step:
    """A step that is one run of pytest."""
    def step(output: IO[bytes] | None) -> Outcome:
        results = RESULTS / f'{name}.xml'
        results.parent.mkdir(parents=True, exist_ok=True)
        results.unlink(missing_ok=True)
        status = subprocess.run(
            [sys.executable, '-m', 'pytest', '-q', f'--junitxml={results}',
             *arguments], cwd=ROOT, stdout=output, stderr=output,
            check=False).returncode
        return _outcome(results, status)
    return step


def _outcome(results: Path, status: int) -> Outcome:
    """Read a run's result file; it may be missing if pytest died."""
    if not results.exists():
        return Outcome(errors=[f'pytest ended with status {status}'])
    found: dict[str, list[str]] = {
        'passed': [], 'failure': [], 'error': [], 'skipped': []}
    tree = ElementTree.parse(results)  # noqa: S314 - pytest wrote it
    for case in tree.iter('testcase'):
        name = f'{case.get("classname")}::{case.get("name")}'
        verdicts = [c.tag for c in case if c.tag in found] or ['passed']
        for verdict in verdicts:
            found[verdict].append(name)
    if status and not found['failure'] and not found['error']:
        found['error'].append(f'pytest ended with status {status}')
    return Outcome(len(found['passed']), found['failure'], found['error'],
                   found['skipped'])


def _tool(output: IO[bytes] | None, name: str, *arguments: str,
          **environment: str) -> Outcome:
    """A step that is one command of the virtual environment."""
    status = subprocess.run(
        [Path(sys.executable).with_name(name), *arguments], cwd=ROOT,
        env=os.environ | environment, stdout=output, stderr=output,
        check=False).returncode
    if status:
        return Outcome(failed=[f'{name} ended with status {status}'])
    return Outcome(passed=1)


def _namespace() -> list[str]:
    """Make the tree for mypy; names of the rooms."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    folders = config['options']['package_dir'].strip().splitlines()
    rooms = []
    for line in folders:
        room, _, folder = line.replace(' ', '').partition('=')
        link = NAMESPACE / room.replace('.', '/')
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(ROOT / folder)
        rooms.append(room)
    return rooms


#: Two at a time, a file in one piece: each worker has its own servers, and
#: a guest's boot and a server's stop are mostly waiting.
_SPREAD = ('-n', '2', '--dist', 'loadfile')

#: What becomes of volumes in a cloud where nothing goes wrong.
_LIFE = tuple(f'tests/cloud/test_{name}.py'
              for name in ('life', 'extend', 'encrypted', 'tempest'))

STEPS: dict[str, Step] = {
    'lint': lint,
    'types': types,
    'docs': docs,
    'unit': pytest('unit', 'tests/unit', *_SPREAD),
    'faults': pytest('faults', 'tests/faults', *_SPREAD),
    'functional': pytest('functional', 'tests/functional', *_SPREAD,
                         '--ignore=tests/functional/cinder',
                         '--ignore=tests/functional/nfs'),
    # Importing Cinder's tests patches the whole process, which a worker of
    # pytest-xdist does not survive.
    'acceptance': pytest('acceptance', 'tests/acceptance'),
    # Sorted by how many tests they have, the longest files would be last.
    'cinder': pytest('cinder', 'tests/functional/cinder', *_SPREAD,
                     '--no-loadscope-reorder'),
    'nfs': pytest('nfs', 'tests/functional/nfs'),
    'cloud': pytest('cloud', *_LIFE),
    'cloud-faults': pytest('cloud-faults', 'tests/cloud', *(
        f'--ignore={path}' for path in _LIFE)),
}

#: Guests and services that boot, and a server's grace period.
BESIDE = ('nfs', 'cloud', 'cloud-faults')


if __name__ == '__main__':
    sys.exit(main())
