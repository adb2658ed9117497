# SPDX-License-Identifier: Apache-2.0
"""The Cinder driver itself on secure NFS, where upstream's does not start."""

from __future__ import annotations

from collections.abc import Callable
import os

import pytest

from tests.functional.nfs.lab.client import Client
from tests.functional.nfs.lab.client import MOUNT_OPTIONS
from tests.functional.nfs.lab.client import ROOT
from tests.functional.nfs.lab.volume import CINDER
from tests.functional.nfs.lab.volume import FILE_MODE
from tests.functional.nfs.lab.volume import GROUP
from tests.functional.nfs.lab.volume import Share
from tests.functional.nfs.lab.volume import STRANGER

INSIDE = 'tests.functional.nfs.inside.cinder'


@pytest.mark.timeout(400)
def test_cinder_works_as_an_ordinary_user(
        make_share: Callable[[str], Share], share: Share,
        one: Client) -> None:
    """It says at its start why it could not work on two other folders."""
    closed, plain = share, make_share('plain')
    os.chown(closed.folder, STRANGER.uid, STRANGER.gid)
    closed.folder.chmod(0o755)
    plain.folder.chmod(0o770)
    plain.mount(one)
    share = make_share('cinder')
    one.call(f'{INSIDE}:prepare', share.source, CINDER.uid, CINDER.gid,
             MOUNT_OPTIONS, user=ROOT)
    seen = one.start(f'{INSIDE}:work', [closed.mounted, plain.mounted],
                     user=CINDER).result(300)
    refused = seen['trials'][closed.mounted]
    assert refused['fault'][0].endswith('(Permission denied)')
    assert f'Make uid {CINDER.uid} the owner' in refused['fault'][1]
    assert {'nfs4', 'vers=4.2', 'local_lock=none'} <= {*refused['mount']}
    allowed = seen['trials'][plain.mounted]
    assert allowed['fault'] is None
    assert 'chmod g+s' in allowed['advice'][0]
    assert 'nas_secure_file_operations' in seen['upstream']
    assert len(seen['files']) == 7
    for step, files in seen['files']:
        assert files, step
        assert {tuple(found) for found in files.values()} == {
            (CINDER.uid, GROUP, FILE_MODE)}, (step, files)
    # What upstream's set-up looks for, before anything is done.
    assert [line.split()[-1] for line in seen['asked']] == ['mount.nfs']
    assert seen['left'] == []
