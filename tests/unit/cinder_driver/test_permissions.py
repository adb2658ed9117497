# SPDX-License-Identifier: Apache-2.0
"""What is concluded from a trial on a share; NFS itself is in functional."""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
import stat

import pytest

from assisted_snapshots.cinder_driver import permissions
from assisted_snapshots.cinder_driver.permissions import Access
from assisted_snapshots.cinder_driver.permissions import Trial

NFS = ('nfs4', frozenset(('rw', 'vers=4.2', 'local_lock=none')))
GOOD = Trial(uid=64061, gid=64061, groups=(64055, 64061),
             folder=Access(64061, 64055, 0o2770), wanted=0o660,
             file=Access(64061, 64055, 0o660), mount=NFS)

MOUNTINFO = r'''21 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
40 21 0:37 / /mnt rw,nosuid - nfs4 a:/x rw,vers=4.2,local_lock=none
41 21 0:38 / /mnt/with\040space rw - nfs b:/y rw,vers=3,nolock,local_lock=all
42 41 0:39 / /mnt/covered rw - tmpfs tmpfs rw
43 41 0:40 / /mnt/covered ro - nfs4 c:/z ro,vers=4.1
'''



def test_a_secure_share_of_two_groups_is_good() -> None:
    assert permissions.fault(GOOD) is None
    assert permissions.advice(GOOD) == []


@pytest.mark.parametrize('step', ['create', 'chmod', 'write', 'fsync',
                                  'lock', 'rename', 'unlink'])
def test_what_fails_is_named_with_a_remedy(step: str) -> None:
    found = permissions.fault(
        replace(GOOD, failed=step, why='Permission denied', file=None))
    assert found is not None
    assert found[0].endswith('(Permission denied)')
    assert found[1].endswith('.')
    assert '{' not in found[1]


@pytest.mark.parametrize('option', ['nolock', 'local_lock=all',
                                    'local_lock=posix'])
def test_locks_that_stay_on_this_host(option: str) -> None:
    mounted = ('nfs', frozenset(('rw', option)))
    found = permissions.fault(replace(GOOD, mount=mounted))
    assert found is not None
    assert option in found[0]
    elsewhere = ('ext4', frozenset(('rw', option)))
    assert permissions.fault(replace(GOOD, mount=elsewhere)) is None


def test_a_flock_that_stays_on_this_host_does_not_matter() -> None:
    mounted = ('nfs', frozenset(('rw', 'local_lock=flock')))
    assert permissions.fault(replace(GOOD, mount=mounted)) is None


def test_a_mode_that_was_not_taken() -> None:
    found = permissions.fault(
        replace(GOOD, file=Access(64061, 64055, 0o640)))
    assert found is not None
    assert '0660' in found[0]
    assert '0640' in found[0]


def test_users_that_the_server_maps() -> None:
    [text] = permissions.advice(
        replace(GOOD, file=Access(65534, 64055, 0o660)))
    assert '65534' in text


def test_a_folder_that_its_group_cannot_enter() -> None:
    [text] = permissions.advice(
        replace(GOOD, folder=Access(64061, 64055, 0o700)))
    assert '0700' in text
    assert 'QEMU must run as uid 64061' in text


def test_a_folder_without_setgid() -> None:
    [text] = permissions.advice(
        replace(GOOD, folder=Access(64061, 64055, 0o770),
                file=Access(64061, 64061, 0o660)))
    assert 'chmod g+s' in text
    assert permissions.advice(
        replace(GOOD, folder=Access(64061, 64055, 0o770))) == []


def test_files_for_everybody_need_no_advice() -> None:
    assert permissions.advice(
        replace(GOOD, wanted=0o666, folder=Access(0, 0, 0o700),
                file=Access(64061, 64061, 0o666))) == []


@pytest.mark.parametrize(('folder', 'kind', 'option'), [
    ('/srv', 'ext4', 'relatime'), ('/mnt/volumes', 'nfs4', 'nosuid'),
    ('/mnt/with space/x', 'nfs', 'nolock'), ('/mnt/covered', 'nfs4', 'ro')])
def test_the_mount_of_a_folder(folder: str, kind: str, option: str) -> None:
    found, options = permissions.mount_of(MOUNTINFO, Path(folder))
    assert found == kind
    assert option in options


def test_a_trial_on_real_files_leaves_none(tmp_path: Path) -> None:
    trial = permissions.attempt(tmp_path, 0o660)
    assert trial.failed is None
    assert trial.file == Access(os.geteuid(), tmp_path.stat().st_gid, 0o660)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == trial.folder.mode
    assert permissions.fault(trial) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_nobody_can_write_to() -> None:
    trial = permissions.attempt(Path('/proc/self'), 0o660)
    assert trial.failed == 'create'
    assert trial.file is None


def test_the_message_has_all_that_one_needs() -> None:
    told = str(permissions.ShareUnusable(
        share='s:/x', folder='/mnt', uid=1, gid=2, groups='2, 3', owner=0,
        group=0, mode='0755', problem='it cannot', remedy='Do this.'))
    for part in ('s:/x', 'uid 1', 'gid 2', '2, 3', '0755', 'it cannot',
                 'Do this.'):
        assert part in told
