# SPDX-License-Identifier: Apache-2.0
"""The lists of tempest's tests, and how its output is read."""

from __future__ import annotations

import pytest

from tests.cloud.tempest import lists
from tests.cloud.tempest import run

OUTPUT = '''\
{0} api.test_a.A.test_good [5.640755s] ... ok
{1} setUpClass (api.test_a.B) ... SKIPPED: it is disabled
{0} api.test_a.A.test_bad [10.000000s] ... FAILED

Captured traceback:
    {1} said api.test_a.A.test_never ... ok
{1} api.test_a.A.test_left ... SKIPPED: no option
'''


@pytest.mark.parametrize(('test', 'outcome'), [
    ('api.test_a.A.test_good', run.PASSED),
    ('api.test_a.A.test_bad', 'FAILED'),
    ('api.test_a.A.test_left', 'SKIPPED: no option'),
    ('api.test_a.B.test_any', 'SKIPPED: it is disabled'),
    ('api.test_a.A.test_never', run.MISSING),
    ('api.test_a.A.test_go', run.MISSING),
])
def test_outcomes(test: str, outcome: str) -> None:
    assert run.outcomes(OUTPUT, [test]) == {test: outcome}


def test_a_listed_test_is_not_left_out() -> None:
    assert not [(test, place) for test in lists.tests()
                for place in lists.left_out() if lists.within(test, place)]


def test_everything_is_listed_once() -> None:
    assert len(lists.tests()) == len({*lists.tests()})


def test_every_exception_has_a_reason() -> None:
    assert all(lists.left_out().values())


def test_what_the_project_is_for_is_listed() -> None:
    listed = '\n'.join(lists.tests())
    for name in ('SnapshotDataIntegrityTests', 'SnapshotDependencyTests',
                 'test_snapshot_create_delete_with_volume_in_use',
                 'test_volume_revert_to_snapshot', 'test_backup_create_'):
        assert name in listed


def test_unlisted() -> None:
    known = ['m.A.test_listed', 'm.A.test_new', 'm.B.test_left',
             'm.AB.test_other', 'other.A.test_x']
    assert lists.unlisted(known, ['m.A.test_listed'], ['m.B', 'm.AB']) == [
        'm.A.test_new']
    assert not lists.within('m.AB.test_other', 'm.A')
