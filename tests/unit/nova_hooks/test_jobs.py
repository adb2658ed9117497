# SPDX-License-Identifier: Apache-2.0
"""What waits for something that is in the way, and how long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from assisted_snapshots.nova_hooks.errors import BlockJob
from assisted_snapshots.nova_hooks.errors import HookError
from assisted_snapshots.nova_hooks.jobs import Jobs
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient


def jobs(patience: float) -> Jobs:
    """Jobs of an agent that nobody asks."""
    return Jobs(AgentClient(transport.make(url='fake://'), 'nowhere'),
                patience)


def hindrances(count: int) -> Iterator[HookError | None]:
    """Something that is in the way so many times."""
    for _ in range(count):
        yield BlockJob(device='vda')
    yield None


def test_it_ends_in_time() -> None:
    """Nothing is refused."""
    found = hindrances(2)
    jobs(60.0).patiently(lambda: next(found))
    assert not list(found)


def test_it_does_not_end() -> None:
    """What is in the way is said; it has been looked at once at least."""
    found = hindrances(9)
    with pytest.raises(BlockJob, match='vda'):
        jobs(0.0).patiently(lambda: next(found))
    assert len(list(found)) == 9
