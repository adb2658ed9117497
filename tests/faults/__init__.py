# SPDX-License-Identifier: Apache-2.0
"""Tests that kill, fill up and corrupt."""
