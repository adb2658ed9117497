# SPDX-License-Identifier: Apache-2.0
"""What is done about a merge that does not end as it should."""

from __future__ import annotations

from pathlib import Path
import subprocess
import threading

import libvirt
import pytest

from assisted_snapshots.agent import files
from assisted_snapshots.agent.actions import MergeActions
from assisted_snapshots.agent.board import Board
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.core import Agent
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
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import State

URI = 'test:///default'
#: The guest that libvirt's test driver always has; it knows no block jobs.
GUEST = '6695eb01-f6a4-8304-79aa-97f2502e193f'


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


def pivoting(folder: Path) -> tuple[AgentSettings, Record]:
    """An active commit that is ready, and where its journal is."""
    request = MergeRequest(Kind.DELETE, 'a', 's1', ('v', 'v.s1'),
                           ('v', 'v.s1'), 'v')
    return AgentSettings(folder / 'state'), Record(
        'job', request, GUEST, 'test', 'vda', {'a': str(folder)},
        {'a': request.before}, method='active-commit',
        state=State.PIVOTING, incarnation=1, started=True)


def test_a_pivot_that_fails_is_reported_and_can_be_given_up(
        tmp_path: Path) -> None:
    settings, record = pivoting(tmp_path)
    journal = Journal(settings.state_dir)
    board = Board(journal)
    hypervisor = Hypervisor(URI, lambda event: connected.set())
    connected = threading.Event()
    hypervisor.start()
    assert connected.wait(20)
    tools = Tools(board, hypervisor, Guard(URI), lambda: settings,
                  threading.Event())
    task = board.add(record)
    assert MergeActions(tools, FileActions(tools)).pivot(task) > 0
    assert task.record.condition is Condition.STALLED
    assert 'not pivoted yet' in task.record.note
    hypervisor.close()
    journal.close()
    agent = Agent(settings, 'host')
    assert agent.abort('job').note == 'is being aborted'
    agent.journal.close()


def test_a_pivot_under_way_is_not_aborted(tmp_path: Path) -> None:
    settings, record = pivoting(tmp_path)
    journal = Journal(settings.state_dir)
    journal.put(record)
    journal.close()
    agent = Agent(settings, 'host')
    with pytest.raises(errors.JobState):
        agent.abort('job')
    agent.journal.close()


DOMAIN = """<domain type='test'><name>off</name><uuid>{uuid}</uuid>
<memory>8192</memory><os><type>hvm</type></os><devices>
<disk type='file'><driver name='qemu' type='qcow2'/>
<source file='{share}/v.s1'/><target dev='vda'/><serial>a</serial></disk>
</devices></domain>"""


@pytest.mark.parametrize('written', [False, True])
def test_a_guest_that_wrote_after_the_copy_keeps_its_layer(
        share: Path, written: bool) -> None:
    """Started and shut off between qemu-img's end and the definition."""
    connected = threading.Event()
    hypervisor = Hypervisor(URI, lambda event: connected.set())
    hypervisor.start()
    assert connected.wait(20)
    uuid = '11111111-2222-3333-4444-555555555555'
    hypervisor.define(DOMAIN.format(uuid=uuid, share=share))
    settings = AgentSettings(share / 'state')
    board = Board(Journal(settings.state_dir))
    tools = Tools(board, hypervisor, Guard(URI), lambda: settings,
                  threading.Event())
    request = MergeRequest(Kind.DELETE, 'a', 's1', ('v', 'v.s1'),
                           ('v', 'v.s1'), 'v')
    record = Record('job', request, uuid, 'off', 'vda', {'a': str(share)},
                    {'a': request.before},
                    formats={'v': 'qcow2', 'v.s1': 'qcow2'})
    copied = files.top_mark(record)
    if written:
        tool(share, 'qemu-io', '-c', 'write 3M 64k', 'v.s1')
    try:
        FileActions(tools).move(record, copied)
        name = 'v.s1' if written else 'v'
        assert f"'{share}/{name}'" in hypervisor.definition(uuid)
    finally:
        hypervisor.close()
        # The test driver keeps its guests as long as the process lives.
        libvirt.open(URI).lookupByUUIDString(uuid).undefine()
