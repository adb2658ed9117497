# SPDX-License-Identifier: Apache-2.0
"""``snapshot``: taken, deleted, listed, cloned from and reverted to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
import uuid

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.cli.base import Bytes
from assisted_snapshots.cli.base import Lister
from assisted_snapshots.cli.base import sentence
from assisted_snapshots.cli.base import VolumeCommand
from assisted_snapshots.cli.exits import Exit
from assisted_snapshots.cli.places import of_merge
from assisted_snapshots.cli.progress import Meter
from assisted_snapshots.cli.units import human
from assisted_snapshots.cli.units import parse_size
from assisted_snapshots.cli.view import ChainView
from assisted_snapshots.cli.view import plan_document
from assisted_snapshots.rpcapi.messages import Quiesce


class List(Lister):
    """List a volume's snapshots, oldest first."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the volume."""
        parser = super().get_parser(prog_name)
        parser.add_argument('volume', metavar='VOLUME',
                            help='file name (volume-<id>) or id of a volume')
        return parser

    def take_action(self, args: argparse.Namespace) -> Any:
        """Return the table."""
        files = self.session.files(args.volume)
        view = ChainView(self.session.operations(files).state())
        return (('id', 'file', 'content', 'written_since'),
                [(s['id'], s['file'], s['content'],
                  Bytes(s['written_since'])) for s in view.snapshots()])


class _SnapshotCommand(VolumeCommand):
    """A command on one snapshot."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the snapshot."""
        parser = super().get_parser(prog_name)
        parser.add_argument('snapshot', metavar='SNAPSHOT',
                            help='id of the snapshot')
        return parser


class Create(VolumeCommand):
    """Take a snapshot, of a running guest's volume or of a detached one."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the snapshot and quiescing."""
        parser = super().get_parser(prog_name)
        parser.add_argument('snapshot', metavar='SNAPSHOT', nargs='?',
                            help='id of the snapshot (default: a new UUID)')
        parser.add_argument(
            '--quiesce', choices=[str(q) for q in Quiesce],
            default=str(Quiesce.TRY),
            help="freeze the guest's file systems: not at all, if it works "
                 '(default), or else take no snapshot')
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        """Take the snapshot."""
        files = self.session.files(args.volume)
        snapshot = (str(uuid.uuid4()) if args.snapshot is None
                    else args.snapshot)
        with self.session.meter(f'create {snapshot}', self.quiet) as meter:
            operations = self.session.operations(files, meter, unlock=True)
            consistency = operations.create(snapshot, quiesce=args.quiesce)
        document = {'volume': files.name, 'id': snapshot,
                    'file': files.overlay(snapshot),
                    'consistency': consistency}
        self.emit(args, document, sentence(
            f'snapshot {snapshot} of {files.name} taken'
            + (f', {consistency}' if consistency else '')))
        return Exit.OK


class Delete(_SnapshotCommand):
    """Delete a snapshot, the way that copies the fewest bytes."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the limit."""
        parser = super().get_parser(prog_name)
        parser.add_argument('--bandwidth', metavar='RATE', default='0',
                            help='copy at most so many bytes per second '
                                 'while a guest runs; or with K, M, G')
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        """Delete the snapshot."""
        files = self.session.files(args.volume)
        rate = parse_size(args.bandwidth)
        with self.session.meter(f'delete {args.snapshot}',
                                self.quiet) as meter:
            attached = self.session.attachment(files) is not None
            operations = self.session.operations(
                files, meter, unlock=not attached, bandwidth=rate)
            plan = self.session.plan(files, operations, args.snapshot)
            _follow(meter, files, plan, attached)
            operations.delete(args.snapshot)
        self.emit(args, plan_document(plan, args.snapshot, attached),
                  sentence(f'snapshot {args.snapshot} of {files.name} '
                           f'deleted: {plan.method}, at most '
                           f'{human(plan.copy_bytes)} copied'))
        return Exit.OK


class Clone(_SnapshotCommand):
    """Make a new volume with a snapshot's content."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the new volume."""
        parser = super().get_parser(prog_name)
        parser.add_argument('dest', metavar='DEST',
                            help='file of the new volume: a name in the '
                                 'share, or a path with a slash')
        parser.add_argument('--to', dest='kind', default=str(Format.QCOW2),
                            choices=[str(f) for f in Format],
                            help='format of the new volume (default: qcow2)')
        parser.add_argument('--size', type=str, default='',
                            help='virtual size, if larger; bytes, or with '
                                 'K, M, G, T')
        return parser

    def take_action(self, args: argparse.Namespace) -> int:
        """Clone the snapshot."""
        files = self.session.files(args.volume)
        size = parse_size(args.size) if args.size else None
        dest = _destination(files, args.dest)
        with self.session.meter(f'clone {args.snapshot}',
                                self.quiet) as meter:
            operations = self.session.operations(files, meter, unlock=True)
            meter.expect(_content_bytes(operations.state(), args.snapshot))
            operations.clone(args.snapshot, dest, Format(args.kind), size)
        document = {'volume': files.name, 'id': args.snapshot,
                    'file': str(dest), 'format': args.kind, 'size': size,
                    'allocated': dest.stat().st_blocks * 512}
        self.emit(args, document, sentence(
            f'{dest.name} made from snapshot {args.snapshot} of '
            f'{files.name}: {human(document["allocated"])} on the share'))
        return Exit.OK


class Revert(_SnapshotCommand):
    """Give a detached volume its newest snapshot's content again.

    What was written since is lost.
    """

    def take_action(self, args: argparse.Namespace) -> int:
        """Revert the volume."""
        files = self.session.files(args.volume)
        with self.session.meter(f'revert to {args.snapshot}',
                                self.quiet) as meter:
            operations = self.session.operations(files, meter, unlock=True)
            operations.revert(args.snapshot)
        self.emit(args, {'volume': files.name, 'id': args.snapshot},
                  sentence(f'{files.name} has the content of snapshot '
                           f'{args.snapshot} again'))
        return Exit.OK


def _follow(meter: Meter, files: VolumeFiles, plan: MergePlan,
            attached: bool) -> None:
    """Prepare the display of a merge; qemu-img counts commits right."""
    meter.expect(plan.copy_bytes)
    if attached or plan.direction is Direction.UP:
        places = of_merge(files, plan)
        if places is not None:
            meter.follow(places)


def _destination(files: VolumeFiles, dest: str) -> Path:
    """Return where a clone is to be: a bare name is one in the share."""
    path = Path.cwd() / dest if '/' in dest else files.folder / dest
    if not path.parent.is_dir():
        raise errors.BadTarget(file=dest, reason='there is no such folder')
    return path


def _content_bytes(state: VolumeState, snapshot: str) -> int:
    """Return the most that copying a snapshot's content may move."""
    held = state.held(snapshot)
    return 0 if held is None else held.allocated
