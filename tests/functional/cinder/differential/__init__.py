# SPDX-License-Identifier: Apache-2.0
"""Upstream's driver and ours, side by side, in situations known to go wrong.

``python -m tests.functional.cinder.differential`` prints the table.
"""

from oslo_service import backend

# Before anything imports Cinder, as tests/functional/conftest.py does.
backend.register_backend_default_hook(lambda: backend.BackendType.THREADING)
