# SPDX-License-Identifier: Apache-2.0
"""The operator guide has a word on everything an operator can meet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.rpcapi import errors as agent_errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import Consistency
from assisted_snapshots.rpcapi.messages import State

GUIDE = Path(__file__).parents[2] / 'doc' / 'source' / 'operator.rst'


def _errors(base: type[Exception]) -> Iterator[type[Exception]]:
    for error in base.__subclasses__():
        yield error
        yield from _errors(error)


def _words() -> Iterator[str]:
    for kind in (State, Condition, Consistency):
        yield from kind
    for error in _errors(agent_errors.AgentError):
        if error.__module__ == agent_errors.__name__:
            yield getattr(error, 'code', '')
    for error in _errors(chain_errors.ChainError):
        if error.__module__ == chain_errors.__name__:
            yield error.__name__


@pytest.mark.parametrize('word', sorted(set(_words())))
def test_operator_guide_explains(word: str) -> None:
    entries = [line for line in GUIDE.read_text().splitlines()
               if line.startswith(f'``{word}``')]
    assert entries, f'{word} is not in {GUIDE.name}'
