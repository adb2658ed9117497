# SPDX-License-Identifier: Apache-2.0
"""What is remembered of a request, when the guest is not there to be asked.

The hypervisor is libvirt's own test driver, whose one guest has no disk.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
import threading

import pytest

from assisted_snapshots.agent.accept import Acceptor
from assisted_snapshots.agent.board import Board
from assisted_snapshots.agent.files import left_layers
from assisted_snapshots.agent.hypervisor import Hypervisor
from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.quiesce import Guard
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.settings import AgentSettings
from assisted_snapshots.agent.tools import Tools
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State

URI = 'test:///default'
MERGE = MergeRequest(Kind.DELETE, 'a', 'daily', ('v', 'v.daily'),
                     ('v', 'v.daily'), 'v')
CREATE = CreateRequest((SnapshotDisk('a', 'daily', 'v.daily'),))


def overlay(folder: Path, *commands: str) -> None:
    """Take the snapshot of that name; a guest then writes to its overlay."""
    (folder / 'v').write_bytes(bytes(1 << 20))
    subprocess.run(['qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-b',
                    'v', '-F', 'raw', 'v.daily', '1M'], cwd=folder,
                   check=True)
    for command in commands:
        subprocess.run(['qemu-io', '-c', command, 'v.daily'], cwd=folder,
                       check=True, capture_output=True)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(Journal(tmp_path / 'state'))


@pytest.fixture
def acceptor(tmp_path: Path, board: Board) -> Iterator[Acceptor]:
    connected = threading.Event()
    hypervisor = Hypervisor(URI, lambda event: connected.set())
    hypervisor.start()
    assert connected.wait(10)
    settings = AgentSettings(tmp_path / 'state')
    yield Acceptor(Tools(board, hypervisor, Guard(URI), lambda: settings,
                         threading.Event()), 'here')
    hypervisor.close()


@pytest.fixture
def done(tmp_path: Path, board: Board) -> Callable[..., str]:
    """Have a job that is done in the journal."""
    def make(request: CreateRequest | MergeRequest) -> str:
        task = board.add(Record(
            'old', request, 'uuid', 'guest', 'vda', {'a': str(tmp_path)},
            {'a': ('v',)}))
        board.amend('old', state=State.DONE,
                    left=left_layers(task.record))
        return 'old'
    return make


def test_lost_report_of_a_delete(
        tmp_path: Path, acceptor: Acceptor, done: Callable[..., str]) -> None:
    overlay(tmp_path, 'write 0 64k')
    job = done(MERGE)
    assert acceptor.merge(MERGE).id == job
    os.unlink(tmp_path / 'v.daily')
    assert acceptor.merge(MERGE).id == job


def test_snapshot_of_the_same_name_is_not_deleted_already(
        tmp_path: Path, acceptor: Acceptor, done: Callable[..., str]) -> None:
    overlay(tmp_path, 'write 0 64k')
    done(MERGE)
    os.unlink(tmp_path / 'v.daily')
    overlay(tmp_path, 'write 64k 64k')
    with pytest.raises(errors.VolumeNotFound):
        acceptor.merge(MERGE)


def test_lost_report_of_a_snapshot(
        tmp_path: Path, acceptor: Acceptor, done: Callable[..., str]) -> None:
    overlay(tmp_path, 'write 0 64k')
    job = done(CREATE)
    assert acceptor.create(CREATE).id == job


def test_snapshot_of_the_same_name_is_not_taken_already(
        tmp_path: Path, acceptor: Acceptor, done: Callable[..., str]) -> None:
    overlay(tmp_path, 'write 0 64k')
    done(CREATE)
    os.unlink(tmp_path / 'v.daily')
    overlay(tmp_path)
    with pytest.raises(errors.VolumeNotFound):
        acceptor.create(CREATE)
