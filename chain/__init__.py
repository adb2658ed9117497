# SPDX-License-Identifier: Apache-2.0
"""The qcow2 chain of one volume: value, plan, store and operations.

Shared by the agent, the Cinder driver and the command line.  Nothing here
knows libvirt, RPC, Nova or Cinder.
"""
