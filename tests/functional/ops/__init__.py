# SPDX-License-Identifier: Apache-2.0
"""The agent and the operations on real guests, while these write."""
