# SPDX-License-Identifier: Apache-2.0
"""``job``: the agent's jobs, seen and steered."""

from __future__ import annotations

from abc import abstractmethod
import argparse
from collections.abc import Iterator
import time
from typing import Any
from typing import TYPE_CHECKING

from assisted_snapshots.cli import picture
from assisted_snapshots.cli.base import Bytes
from assisted_snapshots.cli.base import Command
from assisted_snapshots.cli.base import Lister
from assisted_snapshots.cli.exits import Exit
from assisted_snapshots.cli.progress import note_of
from assisted_snapshots.cli.units import duration
from assisted_snapshots.cli.units import human
from assisted_snapshots.cli.units import parse_size
from assisted_snapshots.cli.view import Document
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State

if TYPE_CHECKING:
    from assisted_snapshots.rpcapi.client import AgentClient

# Seconds without any answer until watching is given up; the job goes on.
_PATIENCE = 120.0


class List(Lister):
    """List the agent's jobs, the newest last."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add which jobs are wanted."""
        parser = super().get_parser(prog_name)
        parser.add_argument('volume', nargs='?', metavar='VOLUME',
                            help='only the jobs of this volume')
        parser.add_argument('--all', action='store_true',
                            help='those that have ended, too')
        return parser

    def take_action(self, args: argparse.Namespace) -> Any:
        """Return the table."""
        volume = (self.session.volume_id(args.volume)
                  if args.volume else None)
        found = self.session.client.list_jobs(volume,
                                              unfinished=not args.all)
        return (('id', 'kind', 'volumes', 'subjects', 'state', 'method',
                 'done_bytes', 'total_bytes', 'note'),
                [(j.id, str(j.kind), ' '.join(j.volumes),
                  ' '.join(j.subjects), str(j.state), j.method,
                  Bytes(j.done_bytes), Bytes(j.total_bytes),
                  j.error or note_of(j)) for j in found])


class _OneJob(Command):
    """A command on one job."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the job."""
        parser = super().get_parser(prog_name)
        parser.add_argument('job', metavar='JOB', help='id of the job')
        return parser


class _JobCommand(_OneJob):
    """A command that asks the agent once, and shows the job."""

    def take_action(self, args: argparse.Namespace) -> int:
        """Do it and show the job."""
        job = self.act(self.session.client, args)
        self.emit(args, document(job), list(lines(job)))
        return Exit.OK

    @abstractmethod
    def act(self, client: AgentClient, args: argparse.Namespace) -> Job:
        """Do what the command is there for."""


class Show(_JobCommand):
    """Show a job."""

    def act(self, client: AgentClient, args: argparse.Namespace) -> Job:
        """Ask for the job."""
        return client.get_job(args.job)


class Pause(_JobCommand):
    """Let a job rest; it stays in place."""

    def act(self, client: AgentClient, args: argparse.Namespace) -> Job:
        """Pause the job."""
        return client.pause_job(args.job)


class Resume(_JobCommand):
    """Let a paused job go on."""

    def act(self, client: AgentClient, args: argparse.Namespace) -> Job:
        """Resume the job."""
        return client.resume_job(args.job)


class Abort(_JobCommand):
    """Give a job up; the chain stays as it was before the job."""

    def act(self, client: AgentClient, args: argparse.Namespace) -> Job:
        """Abort the job."""
        return client.abort_job(args.job)


class Bandwidth(_JobCommand):
    """Limit a job to so many bytes per second."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the limit."""
        parser = super().get_parser(prog_name)
        parser.add_argument('rate', metavar='RATE',
                            help='bytes per second, or with K, M, G; '
                                 '0 for no limit')
        return parser

    def act(self, client: AgentClient, args: argparse.Namespace) -> Job:
        """Set the limit."""
        return client.set_bandwidth(args.job, parse_size(args.rate))


class Watch(_OneJob):
    """Watch a job until it ends.

    The exit status is 0 only where the job succeeded.
    """

    def take_action(self, args: argparse.Namespace) -> int:
        """Show progress until the end."""
        client = self.session.client
        first = client.get_job(args.job)
        title = f'{first.kind} {" ".join(first.subjects)}'
        with self.session.meter(title, self.quiet) as meter:
            for job in states(client, first):
                meter.job(job)
        self.emit(args, document(job), list(lines(job)))
        return Exit.OK if job.state is State.DONE else Exit.FAILED


def states(client: AgentClient, job: Job) -> Iterator[Job]:
    """Yield the states of a job until its end; bears a broken bus."""
    heard = time.monotonic()
    yield job
    while not job.state.final:
        try:
            job = client.wait_job(job.id, job.revision)
        except (errors.PeerSilent, errors.BrokerUnreachable):
            if time.monotonic() - heard > _PATIENCE:
                raise
            continue
        heard = time.monotonic()
        yield job


def document(job: Job) -> Document:
    """Return a job for scripts."""
    wire = job.to_wire()
    for name in ('volumes', 'subjects'):
        wire[name] = list(wire[name])
    wire['chains'] = {v: list(names) for v, names in job.chains.items()}
    return {name: str(value) if isinstance(value, str) else value
            for name, value in wire.items()}


def lines(job: Job) -> Iterator[picture.Line]:
    """Draw a job for people."""
    rows = {
        'job': job.id,
        'does': f'{job.kind} of {" ".join(job.subjects)}',
        'volume': ' '.join(job.volumes),
        'guest': job.domain,
        'state': ', '.join(filter(None, (str(job.state), note_of(job)))),
        'method': job.method,
        'progress': f'{human(job.done_bytes)} of {human(job.total_bytes)}',
        'limit': f'{human(job.bandwidth)}/s' if job.bandwidth else '',
        'content': job.consistency,
        'took': duration(max(0.0, job.updated - job.created)),
        'note': job.note,
        'error': job.error,
    }
    for name, value in rows.items():
        if value:
            yield [(f'{name:<8} ', picture.DIM),
                   (value, picture.WARN if name == 'error'
                    else picture.PLAIN)]
