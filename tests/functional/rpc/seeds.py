# SPDX-License-Identifier: Apache-2.0
"""Jobs in the journal of an agent that is not running."""

from __future__ import annotations

import contextlib
from pathlib import Path
import sqlite3
import time

from assisted_snapshots.agent.journal import Journal
from assisted_snapshots.agent.record import Record
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab.agent import Agent


def merge_job(name: str, state: State, report: bool = False) -> Record:
    """A merge of a volume that no guest has."""
    volume = f'v-{name}'
    request = MergeRequest(Kind.DELETE, volume, f's-{name}', ('a', 'b'),
                           ('a', 'b'), 'a', report=report)
    return Record(id=name, request=request, uuid='', domain='guest',
                  device='vda', folders={volume: '/nowhere'},
                  before={volume: ('a', 'b')}, state=state, revision=1,
                  updated=time.time())


def plant(agent: Agent, *records: Record) -> None:
    """Write jobs into the journal."""
    journal = Journal(Path(str(agent.options['state_dir'])))
    for record in records:
        journal.put(record)
    journal.close()


def unsent(agent: Agent) -> list[str]:
    """Jobs whose report is not acknowledged; the agent may be running."""
    path = Path(str(agent.options['state_dir'])) / 'journal.sqlite'
    with contextlib.closing(sqlite3.connect(f'file:{path}?mode=ro',
                                            uri=True)) as db:
        return [job for (job,) in db.execute('SELECT job FROM outbox')]
