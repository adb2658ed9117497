# SPDX-License-Identifier: Apache-2.0
"""cinder.tests.functional.test_group_snapshots with this project's driver."""

from __future__ import annotations

from cinder.tests.functional import test_group_snapshots as cinders

from tests.acceptance.backend import Backend


class TestGroupSnapshots(Backend, cinders.GroupSnapshotsTest):
    """Cinder's own tests."""
