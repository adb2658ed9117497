# SPDX-License-Identifier: Apache-2.0
"""The agent: moves running guests between qcow2 layers through libvirt.

The only room that imports libvirt.  It never removes a file.
"""
