# SPDX-License-Identifier: Apache-2.0
"""``plan``: what a delete would do and copy, before anything is touched."""

from __future__ import annotations

import argparse

from assisted_snapshots.cli import picture
from assisted_snapshots.cli.base import VolumeCommand
from assisted_snapshots.cli.exits import Exit
from assisted_snapshots.cli.view import plan_document


class Plan(VolumeCommand):
    """Show what deleting a snapshot would do, without doing it."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the snapshot."""
        parser = super().get_parser(prog_name)
        parser.add_argument('snapshot', metavar='SNAPSHOT',
                            help='id of the snapshot')
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        """Plan the deletion."""
        files = self.session.files(args.volume)
        plan = self.session.plan(files, self.session.operations(files),
                                 args.snapshot)
        attached = self.session.attachment(files) is not None
        self.emit(args, plan_document(plan, args.snapshot, attached),
                  picture.draw_plan(plan, args.snapshot, attached,
                                    self.glyphs))
        return Exit.OK
