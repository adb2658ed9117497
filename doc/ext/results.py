# SPDX-License-Identifier: Apache-2.0
"""Directive ``results``: the table of what a benchmark run has measured."""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

_MARKS = {None: '', True: 'held', False: '**missed**'}


class Results(SphinxDirective):
    """Shows the file that ``python -m benchmarks --json`` writes."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        name, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(name)
        rows = json.loads(Path(path).read_text())
        if not rows:
            return self.parse_text_to_nodes('Not measured yet.')
        lines = ['.. list-table::', '   :header-rows: 1', '']
        table = [('measured', 'agent', 'reference', 'bar', '')]
        table += [(row['name'], row['value'], row['reference'], row['bar'],
                   _MARKS[row['held']]) for row in rows]
        for cells in table:
            lines += [f'   {"*" if not i else " "} - {cell}'
                      for i, cell in enumerate(cells)]
        return self.parse_text_to_nodes('\n'.join(lines))


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive('results', Results)
    return {'parallel_read_safe': True}
