# SPDX-License-Identifier: Apache-2.0
"""``python -m assisted_snapshots.cli``: for a tree that is not installed."""

from __future__ import annotations

import sys

from assisted_snapshots.cli.main import main

sys.exit(main())
