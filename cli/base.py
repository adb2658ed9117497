# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common: output, and a volume as argument."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import shutil
from typing import Any
from typing import cast
from typing import TYPE_CHECKING

from cliff import columns
from cliff import command
from cliff import lister

from assisted_snapshots.cli import picture
from assisted_snapshots.cli.session import Session
from assisted_snapshots.cli.units import human
from assisted_snapshots.cli.view import Document

if TYPE_CHECKING:
    from assisted_snapshots.cli.main import App


class Bytes(columns.FormattableColumn[int]):
    """A number of bytes in a table; exact in documents."""

    def human_readable(self) -> str:
        """Return the number with its unit."""
        return human(self._value)


class _Base(command.Command):
    """A command that knows the session."""

    @property
    def session(self) -> Session:
        """The share and the agent that the global options name."""
        return cast('App', self.app).session

    @property
    def quiet(self) -> bool:
        """True where only warnings are wanted."""
        return bool(self.app.options.verbose_level == 0)


class Lister(_Base, lister.Lister):
    """A command that prints a table, or rows for scripts."""


class Command(_Base):
    """A command that prints text for people or a document for scripts."""

    #: What ``-f`` offers; the first is the default.
    outputs: tuple[str, ...] = ('text', 'json', 'yaml')

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add ``-f``."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '-f', '--format', dest='output', choices=self.outputs,
            default=self.outputs[0],
            help='print text for people (default) or a document for '
                 'scripts, with exact numbers of bytes')
        return parser

    def emit(self, args: argparse.Namespace, document: Document | list[Any],
             lines: Sequence[picture.Line]) -> None:
        """Print what ``-f`` asks for."""
        if args.output == 'json':
            print(json.dumps(document, indent=2), file=self.app.stdout)
        elif args.output == 'yaml':
            import yaml
            yaml.safe_dump(document, self.app.stdout, sort_keys=False)
        elif not self.quiet:
            self._print(lines)

    def _print(self, lines: Sequence[picture.Line]) -> None:
        if not self.app.stdout.isatty():
            print(picture.plain(lines), file=self.app.stdout)
            return
        from rich.console import Console
        from rich.text import Text
        console = Console(file=self.app.stdout, highlight=False)
        for line in lines:
            console.print(Text.assemble(*line), soft_wrap=True)

    @property
    def glyphs(self) -> picture.Glyphs:
        """The characters that standard output can carry."""
        return picture.glyphs_for(self.app.stdout.encoding)

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None where output goes elsewhere."""
        if not self.app.stdout.isatty():
            return None
        return shutil.get_terminal_size().columns


class VolumeCommand(Command):
    """A command on one volume of the share."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the volume."""
        parser = super().get_parser(prog_name)
        parser.add_argument('volume', metavar='VOLUME',
                            help='file name (volume-<id>) or id of a volume')
        return parser


def sentence(text: str) -> list[picture.Line]:
    """Return one line of ordinary text."""
    return [[(text, picture.PLAIN)]]
