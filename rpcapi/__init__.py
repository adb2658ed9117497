# SPDX-License-Identifier: Apache-2.0
"""What travels between the agent, Nova, Cinder and the command line."""
