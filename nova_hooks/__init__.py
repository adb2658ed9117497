# SPDX-License-Identifier: Apache-2.0
"""Nova hooks: nothing works here yet; issue 4 fills this room."""
