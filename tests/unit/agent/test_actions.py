# SPDX-License-Identifier: Apache-2.0
"""What is done about a merge whose guest is off before it was proven."""

from __future__ import annotations

from pathlib import Path
import subprocess
import threading

import pytest

from assisted_snapshots.agent.actions import MergeActions
from assisted_snapshots.agent.board import Board
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.decide import Observation
from assisted_snapshots.agent.decide import Presence
from assisted_snapshots.agent.detached import FileActions
from assisted_snapshots.agent.hypervisor import Hypervisor
from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.observe import Sight
from assisted_snapshots.agent.quiesce import Guard
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.settings import AgentSettings
from assisted_snapshots.agent.tools import HAND_OVER
from assisted_snapshots.agent.tools import Tools
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import State

URI = 'test:///default'


def tool(folder: Path, *argv: str) -> None:
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """Three layers; the two upper ones hold what the lowest does not."""
    below = ''
    for at, name in enumerate(('v', 'v.s1', 'v.s2')):
        backing = ['-b', below, '-F', 'qcow2'] if below else []
        tool(tmp_path, 'qemu-img', 'create', '-f', 'qcow2', *backing, name,
             '8M')
        tool(tmp_path, 'qemu-io', '-c', f'write {at}M 64k', name)
        below = name
    return tmp_path


def flush(share: Path, method: str, before: tuple[str, ...],
          survivor: str) -> tuple[float, Task]:
    """Flush a merge that is on the planned chain, its guest shut off."""
    settings = AgentSettings(share / 'state', flush_attempts=1)
    board = Board(Journal(settings.state_dir))
    tools = Tools(board, Hypervisor(URI, lambda event: None), Guard(URI),
                  lambda: settings, threading.Event())
    request = MergeRequest(Kind.DELETE, 'a', 's1', before, before[-2:],
                           survivor)
    task = board.add(Record(
        'job', request, 'uuid', 'guest', 'vda', {'a': str(share)},
        {'a': before}, formats=dict.fromkeys(before, 'qcow2'),
        method=method, state=State.FLUSHING, incarnation=3, started=True))
    sight = Sight(Observation(Presence.OFF, chains={'a': request.after}))
    return MergeActions(tools, FileActions(tools)).flush(task, sight), task


def test_what_a_pull_has_lost_is_pulled_again(share: Path) -> None:
    tool(share, 'qemu-img', 'rebase', '-u', '-b', 'v', '-F', 'qcow2', 'v.s2')
    delay, _ = flush(share, 'pull', ('v', 'v.s1', 'v.s2'), 'v.s2')
    assert delay == HAND_OVER


def test_a_layer_the_guest_has_written_to_gets_no_older_data(
        share: Path) -> None:
    """It ran on the lower one: what it wrote there is nowhere else."""
    _, task = flush(share, 'active-commit', ('v', 'v.s1'), 'v')
    assert task.record.state is State.FAILED
    assert task.record.error_code == 'not-durable'
