# SPDX-License-Identifier: Apache-2.0
"""A disk in a definition that Nova makes, with the layers under it.

Nova names the active layer only.  That does for plain volumes; nothing else
may be added to what Nova says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nova.virt.libvirt import config

from assisted_snapshots.nova_hooks.definition import name_layers
from assisted_snapshots.nova_hooks.definition import Source


class LayeredDisk(config.LibvirtConfigGuestDisk):
    """Nova's disk of an encrypted volume.

    :param disk: as Nova has made it.
    :param below: the layers under its own, the nearest first.
    """

    def __init__(self, disk: config.LibvirtConfigGuestDisk,
                 below: Sequence[Source]) -> None:
        super().__init__()
        self.__dict__.update(disk.__dict__)
        self._below = below

    def format_dom(self) -> Any:
        """Return its element; Nova may have set a passphrase since."""
        element = super().format_dom()
        name_layers(element, self._below)
        return element
