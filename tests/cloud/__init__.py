# SPDX-License-Identifier: Apache-2.0
"""The project in a real OpenStack, end to end."""
