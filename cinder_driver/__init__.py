# SPDX-License-Identifier: Apache-2.0
"""Cinder driver: volumes on a share, and the chains of their snapshots."""
