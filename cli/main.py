# SPDX-License-Identifier: Apache-2.0
"""Entry point: global options, the table of commands, exit statuses.

Commands are loaded when they are asked for, and oslo.messaging only when an
agent is needed, so that a local command answers at once.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib import metadata
import logging
import os
import sys
from typing import Any
import warnings

from cliff import app
from cliff import command
from cliff import commandmanager

from assisted_snapshots.cli.exits import Exit
from assisted_snapshots.cli.exits import exit_of
from assisted_snapshots.cli.session import Session

_ROOM = 'assisted_snapshots.cli.'
_COMMANDS = {
    'snapshot create': 'snapshots:Create',
    'snapshot delete': 'snapshots:Delete',
    'snapshot list': 'snapshots:List',
    'snapshot clone': 'snapshots:Clone',
    'snapshot revert': 'snapshots:Revert',
    'chain show': 'chains:Show',
    'chain check': 'chains:Check',
    'chain repair': 'chains:Repair',
    'chain flatten': 'chains:Flatten',
    'volume extend': 'chains:Extend',
    'plan': 'plans:Plan',
    'job list': 'jobs:List',
    'job show': 'jobs:Show',
    'job watch': 'jobs:Watch',
    'job pause': 'jobs:Pause',
    'job resume': 'jobs:Resume',
    'job abort': 'jobs:Abort',
    'job bandwidth': 'jobs:Bandwidth',
    'agent ping': 'agents:Ping',
    'agent info': 'agents:Info',
}
#: Options with a value, and the variables that stand in for them.
_GLOBAL = {
    'share': ('FOLDER', 'folder of the share, as mounted here'),
    'transport-url': ('URL', 'message bus of the agent; without it, volumes '
                             'are taken to be detached'),
    'host': ('NAME', 'host of the agent (default: this host)'),
}
#: Libraries whose chatter would bury the one sentence that counts.
_CHATTY = ('oslo', 'oslo_messaging', 'oslo.messaging', 'amqp', 'kombu',
           'oslo_concurrency', 'oslo_service', 'oslo_utils', 'stevedore')


class _Lazy(commandmanager.EntryPointWrapper):
    """A command that is imported when it is asked for."""

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self._module, self._class = place.split(':')

    def load(self) -> type[command.Command]:
        """Import the command."""
        found: type[command.Command] = getattr(
            import_module(_ROOM + self._module), self._class)
        return found

    @property
    def value(self) -> str:
        """Where the command is."""
        return f'{_ROOM}{self._module}:{self._class}'


def _version() -> str:
    try:
        return metadata.version('assisted-snapshots')
    except metadata.PackageNotFoundError:
        return 'not installed'


class App(app.App):
    """The command line application."""

    NAME = 'assisted-snapshot'
    LOG = logging.getLogger(NAME)
    session: Session

    def __init__(self, **streams: Any) -> None:
        manager = commandmanager.CommandManager('assisted_snapshots.command')
        for name, place in _COMMANDS.items():
            manager.commands[name] = _Lazy(name, place)
        self._error: BaseException | None = None
        super().__init__(
            'Snapshots of volumes that are files on a share: on the share '
            'alone, or through the agent where a guest has the volume.',
            _version(), manager, deferred_help=True, **streams)

    def build_option_parser(
            self, description: str | None, version: str | None,
            argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        """Add the options that every command knows."""
        parser = super().build_option_parser(
            description, version,
            {'allow_abbrev': False, 'prog': self.NAME,
             'epilog': 'Exit status: 0 done; 1 failed, can be repeated; '
                       '2 wrong command line; 3 refused, nothing changed; '
                       '4 needs attention.', **(argparse_kwargs or {})})
        for name, (value, text) in _GLOBAL.items():
            variable = variable_of(name)
            parser.add_argument(
                f'--{name}', metavar=value,
                default=os.environ.get(variable, ''),
                help=f'{text}. Env: {variable}')
        parser.add_argument(
            '--base-format', choices=('raw', 'qcow2'), default='',
            help='format of a lone base that has no journal yet; never '
                 'guessed from its content')
        parser.add_argument(
            '--secret-file', metavar='FILE', default='',
            help='file that holds the passphrase of an encrypted volume '
                 '(asked for on a terminal otherwise)')
        return parser

    def configure_logging(self) -> None:
        """Keep stderr to our own sentences unless --debug asks for more."""
        # cliff adds its handlers to those of an earlier run in this process.
        logging.getLogger().handlers.clear()
        super().configure_logging()
        if not self.options.debug:
            warnings.simplefilter('ignore')
            for name in _CHATTY:
                logging.getLogger(name).setLevel(logging.CRITICAL)

    def initialize_app(self, argv: list[str]) -> None:
        """Make the session from the global options."""
        self.session = Session(self.options, self.stdin, self.stderr)

    def interact(self) -> None:
        """Refuse: there is no interactive mode."""
        self.parser.error('which command? "assisted-snapshot help" lists '
                          'them')

    def clean_up(self, cmd: command.Command, result: int,
                 err: BaseException | None) -> None:
        """Remember the error for the exit status; let go of the bus."""
        self._error = err
        self.session.close()

    def run_subcommand(self, argv: list[str]) -> int:
        """Run a command; its error becomes an exit status."""
        result = super().run_subcommand(argv)
        return result if self._error is None else exit_of(self._error)


def variable_of(option: str) -> str:
    """Return the environment variable that stands in for an option."""
    return 'ASSISTED_SNAPSHOT_' + option.upper().replace('-', '_')


def main(argv: list[str] | None = None) -> int:
    """Run ``assisted-snapshot``."""
    return App().run(sys.argv[1:] if argv is None else argv) or Exit.OK
