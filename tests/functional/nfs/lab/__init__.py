# SPDX-License-Identifier: Apache-2.0
"""A real NFS server and real NFS clients, each its own kernel.

The server is nfs-ganesha.  The clients are User-mode Linux guests over the
machine's own root file system, read-only, so the programs of this checkout
run in them as they are.  All of it lives in one network namespace.
"""
