# SPDX-License-Identifier: Apache-2.0
"""A whole OpenStack on one machine, as released, for tests and newcomers.

Nothing in it is patched.  Stand-ins are used for what the machine cannot
have: a few lines play Neutron, ``mount -t nfs`` makes a bind mount of a
file system of its own, and ``sudo`` of root is nothing.
"""
