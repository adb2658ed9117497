# SPDX-License-Identifier: Apache-2.0
"""The live bar of a terminal; imported only where there is one."""

from __future__ import annotations

import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn
from rich.progress import Progress
from rich.progress import ProgressColumn
from rich.progress import Task
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from assisted_snapshots.cli.units import human

_LONG = 13


class Bar:
    """A bar with bytes, rate and time.

    :param began: when the work began, by the monotonic clock.
    """

    def __init__(self, stream: TextIO, title: str, began: float) -> None:
        self._bar = Progress(
            TextColumn('{task.description}', markup=False,
                       table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            _Amount(), _Rate(began), TimeElapsedColumn(),
            TextColumn('{task.fields[note]}', style='dim', markup=False,
                       table_column=Column(no_wrap=True)),
            console=Console(file=stream), refresh_per_second=12,
            expand=True)
        self._bar.start()
        self._task = self._bar.add_task(shorten(title), total=None, note='')

    def update(self, done: int, total: int, note: str = '') -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=total or None,
                         note=note)

    def close(self, ok: bool) -> None:
        """Leave the bar as it ended."""
        if ok:
            task = self._bar.tasks[0]
            end = max(task.completed, task.total or 0)
            self._bar.update(self._task, completed=end, total=end,
                             note='done')
        self._bar.stop()


class _Amount(ProgressColumn):
    """Bytes done, and of how many."""

    def render(self, task: Task) -> Text:
        """Return them as text."""
        return Text('' if task.total is None else
                    f'{human(task.completed)} / {human(task.total)}',
                    no_wrap=True)


class _Rate(ProgressColumn):
    """Bytes per second since the beginning, up to now."""

    def __init__(self, began: float) -> None:
        super().__init__()
        self._began = began
        self._last = ''

    def render(self, task: Task) -> Text:
        """Return it as text; it stands still when the work is done."""
        took = max(time.monotonic() - self._began, 1e-6)
        if not task.finished or not self._last:
            self._last = (f'{human(task.completed / took)}/s'
                          if task.completed else '')
        return Text(self._last, style='cyan', no_wrap=True)


def shorten(title: str) -> str:
    """Cut long ids, so that there is room for the bar."""
    return ' '.join(word if len(word) <= _LONG else word[:8] + '…'
                    for word in title.split())
