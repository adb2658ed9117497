# SPDX-License-Identifier: Apache-2.0
"""The operator's command, ``assisted-snapshot``.

It drives whole snapshot operations with no OpenStack present: on a share
folder alone, and through the agent where a guest has the volume.  It holds
no logic of chains of its own: it parses, asks and shows.
"""
