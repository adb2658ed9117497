# SPDX-License-Identifier: Apache-2.0
"""The results: what was measured, against what, and whether a bar holds."""

from __future__ import annotations

from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

MIB = 1024 * 1024


@dataclass(frozen=True)
class Row:
    """One result.

    :ivar value: as measured, with its unit.
    :ivar reference: what it is measured against, with its unit.
    :ivar bar: what was promised; empty if nothing was.
    :ivar held: whether the promise held; None if there is none.
    """

    name: str
    value: str
    reference: str = ''
    bar: str = ''
    held: bool | None = None


@dataclass
class Results:
    """All rows, in the order they were measured."""

    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, value: str, reference: str = '', bar: str = '',
            held: bool | None = None) -> None:
        """Take in a result."""
        self.rows.append(Row(name, value, reference, bar, held))

    @property
    def held(self) -> bool:
        """Whether every promise held."""
        return all(row.held is not False for row in self.rows)

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title='Against the reference, in the same run')
        for name in ('measured', 'here', 'reference', 'bar', ''):
            table.add_column(name)
        for row in self.rows:
            mark = {None: '', True: '[green]held',
                    False: '[bold red]missed'}[row.held]
            table.add_row(row.name, row.value, row.reference, row.bar, mark)
        console.print(table)

    def write(self, path: Path, *, keep: bool = False) -> None:
        """Write the rows as JSON.

        :param keep: leave rows in the file that were not measured again.
        """
        rows = {row.name: asdict(row) for row in self.rows}
        if keep and path.exists():
            old = {row['name']: row for row in json.loads(path.read_text())}
            rows = old | rows
        path.write_text(json.dumps([*rows.values()], indent=1) + '\n')


def ms(seconds: float) -> str:
    """Seconds as text."""
    return f'{seconds * 1000:.1f} ms'


def mib(count: float) -> str:
    """Bytes as text."""
    return f'{count / MIB:.1f} MiB'
