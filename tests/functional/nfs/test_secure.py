# SPDX-License-Identifier: Apache-2.0
"""All operations as an ordinary user, where root is nobody.

Whoever works in a client cannot become root: no command could be run as it,
with or without a helper.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import stat
import threading

import pytest

from tests.functional.nfs.lab.client import Client
from tests.functional.nfs.lab.client import ROOT
from tests.functional.nfs.lab.volume import CINDER
from tests.functional.nfs.lab.volume import FILE_MODE
from tests.functional.nfs.lab.volume import GROUP
from tests.functional.nfs.lab.volume import MIB
from tests.functional.nfs.lab.volume import QEMU
from tests.functional.nfs.lab.volume import Seen
from tests.functional.nfs.lab.volume import Share
from tests.functional.nfs.lab.volume import STRANGER
from tests.functional.nfs.lab.volume import Volume

KIB = 1 << 10
WANTED = (CINDER.uid, GROUP, FILE_MODE)


@contextmanager
def watched(folder: Path) -> Iterator[set[tuple[str, int, int, int]]]:
    """Look at every file all the time, from the server's side."""
    seen: set[tuple[str, int, int, int]] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for entry in os.scandir(folder):
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                seen.add((entry.name, found.st_uid, found.st_gid,
                          stat.S_IMODE(found.st_mode)))
            ended.wait(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def as_configured(seen: Seen) -> bool:
    """At every step, every file is the owner's and the group's."""
    strange = [(step, name, found) for step, files in seen
               for name, found in files.items() if tuple(found) != WANTED]
    assert strange == []
    return len(seen) > 1


def test_root_and_strangers_may_nothing(share: Share, one: Client) -> None:
    assert share.attempt(one, CINDER) == 'done'
    assert share.attempt(one, QEMU) == 'done'
    assert share.attempt(one, ROOT) == 'PermissionError'
    assert share.attempt(one, STRANGER) == 'PermissionError'


@pytest.mark.parametrize('kind', ['raw', 'qcow2', 'luks'])
def test_files_keep_owner_group_and_mode(
        kind: str, share: Share, one: Client, other: Client) -> None:
    volume = Volume(share, kind)
    volume.make(one)
    with watched(share.folder) as seen:
        volume.write(one, (0, 2 * MIB, 1))
        assert as_configured(volume.do(one, 'create', 'a'))
        volume.write(one, (MIB, 64 * KIB, 2))
        assert as_configured(volume.do(one, 'create', 'b'))
        volume.write(one, (0, 3 * MIB, 3))
        assert as_configured(volume.do(one, 'create', 'c'))
        volume.write(one, (MIB, 2 * MIB, 4))
        assert as_configured(volume.do(one, 'create', 'd'))
        volume.write(one, (0, 64 * KIB, 5))
        assert as_configured(volume.clone(one, 'c', 'volume-2', 'qcow2'))
        if kind != 'luks':
            assert as_configured(volume.clone(one, 'c', 'volume-3', 'raw'))
        assert as_configured(volume.do(one, 'delete', 'a'))  # down
        assert volume.verify(one) == [
            'volume-1', 'volume-1.b', 'volume-1.c', 'volume-1.d']
        assert as_configured(volume.do(one, 'delete', 'b'))  # up
        assert len(volume.verify(one)) == 3
        assert as_configured(volume.do(one, 'extend', 5 * MIB))
        assert as_configured(volume.do(one, 'revert', 'd'))
        volume.verify(other)
        assert as_configured(volume.do(one, 'delete', 'd'))
        assert as_configured(volume.do(one, 'flatten', True))
        volume.snapshots.clear()
        assert len(volume.verify(other)) == 1
    # A file may be narrower in the moment that it is made, never wider.
    born = {name for name, *found in seen if tuple(found) != WANTED}
    assert born <= {name for name, *found in seen if tuple(found) == WANTED}
    assert {found[1:3] for found in seen} == {WANTED[:2]}
    assert not any(mode & ~FILE_MODE for *_, mode in seen)
