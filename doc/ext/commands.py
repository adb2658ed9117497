# SPDX-License-Identifier: Apache-2.0
"""Directive ``commands``: the commands an application registers in code.

cliff's own directive finds only commands that are entry points.
"""

from typing import Any

from cliff import command
from cliff import sphinxext

from assisted_snapshots.cli.main import App


class Commands(sphinxext.AutoprogramCliffDirective):
    """Documents every command of the application."""

    def _load_app(self) -> None:
        """Have the commands documented, not the application."""

    def _load_commands(self) -> dict[str, type[command.Command]]:
        manager = App().command_manager
        return {name: self._load_command(manager, name)
                for name in sorted(manager.commands)}


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.setup_extension('cliff.sphinxext')
    app.add_directive('commands', Commands)
    return {'parallel_read_safe': True}
