# SPDX-License-Identifier: Apache-2.0
"""Faults: processes are killed and files damaged while guests write."""
