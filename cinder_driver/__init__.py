# SPDX-License-Identifier: Apache-2.0
"""Cinder driver: nothing works here yet; issue 3 fills this room."""
