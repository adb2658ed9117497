# SPDX-License-Identifier: Apache-2.0
"""``chain`` and ``volume``: shown, checked, repaired, flattened, extended."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from assisted_snapshots.cli import diagram
from assisted_snapshots.cli import picture
from assisted_snapshots.cli.base import sentence
from assisted_snapshots.cli.base import VolumeCommand
from assisted_snapshots.cli.exits import Exit
from assisted_snapshots.cli.units import human
from assisted_snapshots.cli.units import parse_size


class Show(VolumeCommand):
    """Show a volume's layers and snapshots as a picture, base first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the other pictures."""
        parser = super().get_parser(prog_name)
        other = parser.add_mutually_exclusive_group()
        other.add_argument('--dot', dest='drawing', action='store_const',
                           const=diagram.dot, help='print Graphviz source')
        other.add_argument('--svg', dest='drawing', action='store_const',
                           const=diagram.svg, help='print an SVG picture')
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        """Show the chain."""
        files = self.session.files(args.volume)
        view = self.session.view(files)
        if args.drawing is not None:
            self.app.stdout.write(args.drawing(view))
        else:
            self.emit(args, view.document(),
                      picture.draw_chain(view, self.glyphs, self.width))
        return Exit.OK


class Check(VolumeCommand):
    """Check headers, metadata and clusters of a volume; changes nothing."""

    def take_action(self, args: argparse.Namespace) -> int:
        """Return 4 where there are findings."""
        files = self.session.files(args.volume)
        findings = self.session.operations(files,
                                           unlock=True).check()
        document = {'volume': files.name,
                    'findings': [asdict(f) for f in findings]}
        lines = [[(f'{f.file}: {f.problem}', picture.WARN)]
                 for f in findings]
        self.emit(args, document,
                  lines or sentence(f'{files.name}: nothing found'))
        return Exit.ATTENTION if findings else Exit.OK


class Repair(VolumeCommand):
    """Finish or undo an interrupted operation; keep files if in doubt."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the dry run."""
        parser = super().get_parser(prog_name)
        parser.add_argument('-n', '--dry-run', action='store_true',
                            help='only say what would be done')
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        """Recover the volume."""
        files = self.session.files(args.volume)
        with self.session.meter(f'repair {files.name}',
                                self.quiet) as meter:
            operations = self.session.operations(files, meter, unlock=True)
            done = operations.recover(dry_run=args.dry_run)
        document = {'volume': files.name, 'dry_run': args.dry_run,
                    'actions': done}
        self.emit(args, document,
                  [line for text in done for line in sentence(text)]
                  or sentence(f'{files.name}: nothing to repair'))
        return Exit.OK


class Flatten(VolumeCommand):
    """Merge all layers of a volume into one."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the consent to lose the snapshots."""
        parser = super().get_parser(prog_name)
        parser.add_argument('--delete-snapshots', action='store_true',
                            help='yes, all snapshots will be gone')
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        """Flatten the volume."""
        files = self.session.files(args.volume)
        with self.session.meter(f'flatten {files.name}',
                                self.quiet) as meter:
            detached = self.session.attachment(files) is None
            operations = self.session.operations(files, meter,
                                                 unlock=detached)
            operations.flatten(delete_snapshots=args.delete_snapshots)
        view = self.session.view(files)
        self.emit(args, view.document(),
                  picture.draw_chain(view, self.glyphs, self.width))
        return Exit.OK


class Extend(VolumeCommand):
    """Make a volume larger; its guest sees it, snapshots keep their size."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the size."""
        parser = super().get_parser(prog_name)
        parser.add_argument('size', metavar='SIZE',
                            help='new virtual size: bytes, or with K, M, G, '
                                 'T')
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        """Extend the volume."""
        files = self.session.files(args.volume)
        size = parse_size(args.size)
        self.session.operations(files, unlock=True).extend(size)
        self.emit(args, {'volume': files.name, 'virtual_size': size},
                  sentence(f'{files.name} is {human(size)} now'))
        return Exit.OK
