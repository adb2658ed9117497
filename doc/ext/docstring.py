# SPDX-License-Identifier: Apache-2.0
"""Directive ``docstring``: what a module says of itself, word by word.

For tables that are laid out for whoever reads the code.
"""

from importlib import import_module
import inspect
from typing import Any

from docutils import nodes
from docutils.parsers import rst


class Docstring(rst.Directive):
    """Shows a module's docstring as it is written."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the docstring as preformatted text."""
        text = inspect.getdoc(import_module(self.arguments[0])) or ''
        return [nodes.literal_block(text, text, language='none')]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive('docstring', Docstring)
    return {'parallel_read_safe': True}
