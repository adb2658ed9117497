# SPDX-License-Identifier: Apache-2.0
"""``agent``: is it there, and what can it do."""

from __future__ import annotations

import argparse

from assisted_snapshots.cli import picture
from assisted_snapshots.cli.base import Command
from assisted_snapshots.cli.base import sentence
from assisted_snapshots.cli.exits import Exit


class Info(Command):
    """Show versions, problems and the number of jobs of the agent."""

    def take_action(self, args: argparse.Namespace) -> int:
        """Ask the agent about itself."""
        document = self.session.client.ping().to_wire()
        self.emit(args, document,
                  [[(f'{name:<12} ', picture.DIM), (str(value), '')]
                   for name, value in document.items() if value != ''])
        return Exit.OK


class Ping(Command):
    """Ask the agent whether it can work; the exit status is the answer."""

    def take_action(self, args: argparse.Namespace) -> int:
        """Return 0 only where the agent can work."""
        info = self.session.client.ping()
        text = info.problem or f'libvirt {info.libvirt}, QEMU {info.qemu}'
        self.emit(args, info.to_wire(),
                  sentence(f'{info.host}: agent {info.version}: {text}'))
        return Exit.FAILED if info.problem else Exit.OK
