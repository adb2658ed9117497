# SPDX-License-Identifier: Apache-2.0
# Tempest is installed in an environment of its own only.
# mypy: disable-error-code="import-not-found"
"""Where tempest's runner starts to look for tests.

All are tempest's and its plugins' own.  Only the way into a guest is
another: guests have no network, so commands go through the guest agent.
"""

from __future__ import annotations

from tempest.test_discover import test_discover

from tests.cloud.tempest import guests

guests.reach_by_agent()
load_tests = test_discover.load_tests
