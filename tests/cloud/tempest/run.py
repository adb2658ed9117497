# SPDX-License-Identifier: Apache-2.0
"""Runs tempest in a workspace and reads what became of each test."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import re
import subprocess

from tests.cloud.tempest.workspace import VENV
from tests.cloud.tempest.workspace import Workspace

WORKERS = 2
PASSED = 'ok'
#: A line of tempest's output: ``{worker} test [seconds] ... outcome``.
LINE = re.compile(r'^\{\d+\} ([\w.]+)(?: \[[\d.]+s\])? \.\.\. '
                  r'(ok|FAILED|SKIPPED.*)$', re.MULTILINE)
CLASS = re.compile(r'^\{\d+\} setUpClass \((\S+)\)(?: \[[\d.]+s\])? '
                   r'\.\.\. (FAILED|SKIPPED.*)$', re.MULTILINE)
ID = re.compile(r'^([\w.]+)(?:\[.*)?$', re.MULTILINE)
MISSING = 'not run'


def known(workspace: Workspace) -> list[str]:
    """Ids of all tests that this tempest has."""
    return ID.findall(_tempest(workspace, 'known', '--list-tests'))


def run(workspace: Workspace, tests: Sequence[str],
        workers: int = WORKERS) -> Mapping[str, str]:
    """Run these tests; what became of each.

    All that tempest said is in ``output`` of the workspace.
    """
    names = workspace.folder / 'include'
    names.write_text(''.join(rf'^{re.escape(test)}(\[|$)' '\n'
                             for test in tests))
    return outcomes(_tempest(
        workspace, 'output', '--include-list', str(names),
        '--concurrency', str(workers)), tests)


def outcomes(output: str, tests: Sequence[str]) -> dict[str, str]:
    """What a run's output says of each test."""
    said = dict(LINE.findall(output))
    classes = dict(CLASS.findall(output))
    return {test: said.get(test) or classes.get(
        test.rpartition('.')[0], MISSING) for test in tests}


def _tempest(workspace: Workspace, name: str, *arguments: str) -> str:
    """Run tempest; its output, which is in a file of this name too."""
    folder = workspace.folder
    if not (folder / '.stestr').exists():
        subprocess.run([VENV / 'bin/stestr', 'init'], check=True, cwd=folder,
                       env=workspace.environment)
    with open(folder / name, 'wb') as output:
        subprocess.run([VENV / 'bin/tempest', 'run', *arguments],
                       check=False, cwd=folder, env=workspace.environment,
                       stdout=output, stderr=output)
    return (folder / name).read_text(errors='replace')
