# SPDX-License-Identifier: Apache-2.0
"""Cinder's API, scheduler and volume service in one process.

Importing Cinder's tests patches the whole process for eventlet, so this
folder is a run of its own: ``tools/test acceptance``.
"""

# Patches, and must be the first to import anything.
from cinder.tests import unit as _patched  # noqa: F401
