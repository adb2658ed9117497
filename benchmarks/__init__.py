# SPDX-License-Identifier: Apache-2.0
"""What the agent costs, against the bare libvirt call in the same run.

``python -m benchmarks`` prints the table; ``--json`` writes it to a file.
Only ratios and counts travel between machines; the seconds do not.
"""
