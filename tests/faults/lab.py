# SPDX-License-Identifier: Apache-2.0
"""A volume, the QEMU that has it, and moments at which one of them dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.qemu import Qemu
from tests.faults.qemu import QemuGuest
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import MIB
from tests.images import Write


def some(first: int, count: int, byte: int) -> Write:
    return first * CLUSTER, count * CLUSTER, byte


MUCH = some(0, 8, 1)
OTHER = some(2, 9, 2)
LITTLE = some(13, 2, 3)
LATER = some(6, 4, 4)


class Died(BaseException):
    """The process that ran the operation is no more."""


class Lab:
    """A volume, the QEMU that has it, and operations on both."""

    def __init__(self, folder: Path, *layers: Write) -> None:
        self.disk = Disk(folder, 'raw', MIB)
        self.disk.make()
        for number, layer in enumerate(layers):
            if number:
                self.disk.take(f's{number}')
            self.disk.write(layer)
        self.qemu = Qemu(self.disk)
        self.guest = QemuGuest(self.qemu)
        self.operations = self.disk.operations(guest=self.guest)

    def killed(self, moment: str) -> None:
        """Have QEMU killed at a moment of the next operation."""
        self._at(moment, self.qemu.kill)

    def died(self, moment: str) -> None:
        """Have the caller die at a moment of the next operation."""
        def die() -> None:
            raise Died
        self._at(moment, die)

    def verify(self) -> None:
        """Shut down, and see that everything reads back."""
        self.qemu.quit()
        self.disk.verify()

    def _at(self, moment: str, what: Callable[[], None]) -> None:
        def when(now: str) -> None:
            if now == moment:
                self.guest.when = lambda _moment: None
                what()
        self.guest.when = when


def dies_at(number: int) -> Callable[[str], None]:
    left = number

    def observer(_step: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Died
    return observer
