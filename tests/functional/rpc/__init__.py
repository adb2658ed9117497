# SPDX-License-Identifier: Apache-2.0
"""RPC over a real broker."""
