# SPDX-License-Identifier: Apache-2.0
"""cinder.tests.functional.test_volumes with this project's driver."""

from __future__ import annotations

from cinder.tests.functional import test_volumes as cinders

from tests.acceptance.backend import Backend


class TestVolumes(Backend, cinders.VolumesTest):
    """Cinder's own tests."""
