# SPDX-License-Identifier: Apache-2.0
"""The heart of tempest's tests: snapshots of volumes in use, revert, backup.

``python -m tests.cloud.tempest`` runs all that are listed.
"""

from __future__ import annotations

import pytest

from tests.cloud.lab.settings import Settings
from tests.cloud.tempest import lists
from tests.cloud.tempest import run
from tests.cloud.tempest.workspace import Workspace

pytestmark = [pytest.mark.timeout(1800), pytest.mark.cloud('hooks')]

CORE = (
    'cinder_tempest_plugin.api.volume.test_volume_revert',
    'cinder_tempest_plugin.scenario.test_snapshots',
    'tempest.api.volume.test_volumes_backup.VolumesBackupsTest.'
    'test_backup_create_attached_volume',
    'tempest.api.volume.test_volumes_snapshots',
)


def test_core(settings: Settings) -> None:
    tests = [test for test in lists.tests()
             if any(lists.within(test, place) for place in CORE)]
    workspace = Workspace(settings)
    workspace.make()
    results = run.run(workspace, tests)
    assert results == dict.fromkeys(tests, run.PASSED)
