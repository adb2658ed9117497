# SPDX-License-Identifier: Apache-2.0
"""The drivers are imported by whoever wants to: sphinx, a bare script."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize('module', ['nfs', 'gluster'])
def test_import_before_objects_are_registered(module: str) -> None:
    """Only Cinder's own services call ``objects.register_all()``."""
    done = subprocess.run(
        [sys.executable, '-c',
         f'import assisted_snapshots.cinder_driver.{module}\n'
         'from cinder import objects\n'
         'assert not hasattr(objects, "Snapshot")'],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
