# SPDX-License-Identifier: Apache-2.0
"""OpenStack's own tests of volumes and snapshots, run in a cloud of ours.

``tests.txt`` lists the tests that have to pass, ``left_out.txt`` those of
the same modules that do not run here, each with its reason.
"""
