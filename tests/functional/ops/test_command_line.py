# SPDX-License-Identifier: Apache-2.0
"""The command line as a process, against the agent and a running guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.functional.lab.agent import Agent
from tests.functional.lab.guest import Moment
from tests.functional.lab.rabbit import Rabbit
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import Watched


class Shell:
    """Runs commands with the surroundings of one volume."""

    def __init__(self, one: Watched, agent: Agent, rabbit: Rabbit) -> None:
        self._environment = os.environ | {
            'ASSISTED_SNAPSHOT_SHARE': str(one.volume.folder),
            'ASSISTED_SNAPSHOT_TRANSPORT_URL': rabbit.url,
            'ASSISTED_SNAPSHOT_HOST': agent.host}

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run a command; what it printed, on stderr where it failed."""
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-m', 'assisted_snapshots.cli',
             *arguments], env=self._environment, text=True, check=False,
            capture_output=True)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    def json(self, *arguments: str) -> Any:
        """Run a command that prints a document."""
        return json.loads(self.run(*arguments, '-f', 'json'))


def test_whole_life_of_snapshots(ground: Ground, shared_agent: Agent,
                                 rabbit: Rabbit) -> None:
    one = ground.one()
    shell = Shell(one, shared_agent, rabbit)
    volume = one.volume.id
    for snapshot in ('s1', 's2'):
        one.writer.write_more(FEW)
        with Moment(one.writer) as moment:
            shell.run('snapshot', 'create', volume, snapshot)
        one.expected[snapshot] = moment.bounds
    one.writer.write_more(FEW)
    planned = shell.json('plan', volume, 's1')
    assert planned['method'] == 'commit'
    shown = shell.run('chain', 'show', volume)
    assert all(name in shown for name in (*one.live, 's1', 's2'))
    shell.run('snapshot', 'delete', volume, 's1')
    del one.expected['s1']
    assert one.live == one.names('', 's2')
    assert shell.run('chain', 'check', volume)
    jobs = shell.json('job', 'list', '--all', volume)
    assert len(jobs) == 3
    assert 'no snapshot' in shell.run('snapshot', 'delete', volume, 's1',
                                      status=3)
    one.writer.write_more(FEW)
