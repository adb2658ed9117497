# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: a bar on a terminal, a few plain lines elsewhere.

Shown only, never relied on: bytes and rate are what the party that copies
says of itself.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol
from typing import TextIO
from typing import TYPE_CHECKING

from assisted_snapshots.cli.units import duration
from assisted_snapshots.cli.units import human
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State

if TYPE_CHECKING:
    from assisted_snapshots.cli.places import Places

_ORDINARY = (State.ACCEPTED, State.RUNNING, State.DONE)


class Progress(Protocol):
    """Shows how one piece of work gets on."""

    def update(self, done: int, total: int, note: str = '') -> None:
        """Show bytes done of total (0: not known) and what is going on."""

    def close(self, ok: bool) -> None:
        """Show the end."""


class Lines:
    """A line for every tenth done, and for every new note."""

    def __init__(self, stream: TextIO, title: str, began: float) -> None:
        self._stream = stream
        self._title = title
        self._began = began
        self._shown: tuple[int, str] = (0, '')
        self._done = 0

    def update(self, done: int, total: int, note: str = '') -> None:
        """Print a line where there is something new to say."""
        self._done = max(done, self._done)
        tenth = min(10, 10 * done // total) if total else 0
        if (tenth, note) == self._shown:
            return
        self._shown = (tenth, note)
        amount = f' {human(done)} of {human(total)}' if total else ''
        self._print(f'{tenth * 10:>3} %{amount}{" - " if note else ""}{note}')

    def close(self, ok: bool) -> None:
        """Print how long it took."""
        took = max(time.monotonic() - self._began, 1e-6)
        rate = (f', {human(self._done)} at {human(self._done / took)}/s'
                if self._done else '')
        self._print(f'{"done" if ok else "stopped"} after '
                    f'{duration(took)}{rate}')

    def _print(self, text: str) -> None:
        print(f'{self._title}: {text}', file=self._stream, flush=True)


class Meter:
    """Progress of one command, shown once there is something to show."""

    def __init__(self, stream: TextIO, title: str, *, bar: bool,
                 quiet: bool = False) -> None:
        self._bar = bar
        self._began = time.monotonic()
        self._stream = stream
        self._title = title
        self._quiet = quiet
        self._total = 0
        self._places: Places | None = None
        self._progress: Progress | None = None

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 where: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.close(kind is None)

    def update(self, done: int, total: int, note: str = '') -> None:
        """Show bytes done of total."""
        if self._quiet:
            return
        if self._progress is None:
            self._progress = self._make()
        self._progress.update(done, total, note)

    def _make(self) -> Progress:
        if not self._bar:
            return Lines(self._stream, self._title, self._began)
        from assisted_snapshots.cli.bar import Bar
        return Bar(self._stream, self._title, self._began)

    def expect(self, total: int) -> None:
        """Say how many bytes 100 % stand for."""
        self._total = total

    def follow(self, places: Places) -> None:
        """Say what lies where, for work that tells only its place."""
        self._places = places
        self._total = places.size

    def percent(self, done: float) -> None:
        """Show a percentage of what is expected."""
        if self._total:
            self._place(int(self._total * done / 100), self._total, '')

    def job(self, job: Job) -> None:
        """Show what the agent says of its job."""
        self._place(job.done_bytes, job.total_bytes, note_of(job))

    def _place(self, done: int, total: int, note: str) -> None:
        places = self._places
        if places is not None and total:
            done, total = places.below(done), places.total
        self.update(done, total, note)


def note_of(job: Job) -> str:
    """Say in a few words what is going on with a job."""
    words: list[str] = []
    if job.state not in _ORDINARY:
        words.append(job.state)
    if job.paused:
        words.append('paused')
    if job.condition is not Condition.OK:
        words.append(job.condition.replace('-', ' '))
    return ', '.join(words)
