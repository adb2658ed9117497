# SPDX-License-Identifier: Apache-2.0
"""cinder.tests.functional.test_groups with this project's driver."""

from __future__ import annotations

from cinder.tests.functional import test_groups as cinders

from tests.acceptance.backend import Backend


class TestGroups(Backend, cinders.GroupsTest):
    """Cinder's own tests."""
