# SPDX-License-Identifier: Apache-2.0
"""The driver in a process that eventlet has patched: Cinder's default."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.functional.cinder.lab.world import World


def test_lives_of_volumes_beside_each_other(cinder: World) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'tests.functional.cinder.patched',
         str(cinder.folder)],
        capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['lives'] == [{'same': True}] * 3
    assert found['layers'] == 5
    assert found['beats'] > 10
