# SPDX-License-Identifier: Apache-2.0
"""The driver and the agent on real NFS, by two clients."""
