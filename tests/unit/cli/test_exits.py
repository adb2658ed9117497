# SPDX-License-Identifier: Apache-2.0
"""Exit statuses are part of the interface."""

from __future__ import annotations

import pytest

from assisted_snapshots.chain import errors as chain_errors
from assisted_snapshots.cli import errors
from assisted_snapshots.cli.exits import Exit
from assisted_snapshots.cli.exits import exit_of
from assisted_snapshots.cli.exits import exit_of_code
from assisted_snapshots.rpcapi import errors as agent_errors


def guest_failed(code: str) -> Exception:
    return chain_errors.GuestFailed(volume='v', reason='r', code=code)


def job_failed(code: str) -> Exception:
    return agent_errors.JobFailed(job_id='j', reason='r', job_code=code)


@pytest.mark.parametrize(('error', 'status'), [
    (errors.BadSize(text='x'), Exit.USAGE),
    (chain_errors.SnapshotNotFound(volume='v', snapshot_id='s'),
     Exit.REFUSED),
    (chain_errors.MissingLayer(file='f'), Exit.REFUSED),
    (chain_errors.Disagreement(volume='v', reason='r'), Exit.ATTENTION),
    (chain_errors.NotProven(volume='v', reason='r'), Exit.FAILED),
    (guest_failed('disk-busy'), Exit.REFUSED),
    (guest_failed('chain-mismatch'), Exit.ATTENTION),
    (guest_failed('block-job-failed'), Exit.FAILED),
    (guest_failed('of a newer agent'), Exit.FAILED),
    (job_failed('not-durable'), Exit.FAILED),
    (job_failed('chain-mismatch'), Exit.ATTENTION),
    (job_failed(''), Exit.FAILED),
    (agent_errors.PeerSilent(host='h', method='m', seconds=1.0),
     Exit.FAILED),
    (agent_errors.JobNotFound(job_id='j', host='h'), Exit.REFUSED),
    (OSError(), Exit.FAILED),
])
def test_exit_of(error: Exception, status: Exit) -> None:
    assert exit_of(error) is status


def test_every_code_of_the_agent_has_a_status() -> None:
    codes = {kind.code for kind in agent_errors.AgentError.__subclasses__()}
    assert {exit_of_code(code) for code in codes} == {
        Exit.FAILED, Exit.REFUSED, Exit.ATTENTION}


def test_the_numbers_never_change() -> None:
    assert {status.name: int(status) for status in Exit} == {
        'OK': 0, 'FAILED': 1, 'USAGE': 2, 'REFUSED': 3, 'ATTENTION': 4}
