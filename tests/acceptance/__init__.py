# SPDX-License-Identifier: Apache-2.0
"""Cinder's own functional tests with this project's driver."""
