# SPDX-License-Identifier: Apache-2.0
"""All operations as an ordinary user, where root is nobody.

Whoever works in a client cannot become root: no command could be run as it,
with or without a helper.
"""

from __future__ import annotations

from contextlib import suppress
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
Found = tuple[int, int, int]
WANTED = (CINDER.uid, GROUP, FILE_MODE)


class Watched:
    """Every file of a folder, looked at all the time from the server's side.

    A file that is not as it must be is held until the end: its name can be
    gone or another's before it has been looked at again, it cannot.

    :ivar seen: name, owner, group and mode of whatever came to sight.
    """

    def __init__(self, folder: Path) -> None:
        self.seen: set[tuple[str, int, int, int]] = set()
        self._folder = folder
        self._held: dict[int, tuple[str, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        for _, fd in self._held.values():
            os.close(fd)

    def unfinished(self) -> list[tuple[str, Found]]:
        """Files that never became what they must be; ends the watch."""
        self._ended.set()
        self._thread.join()
        return [(name, found) for name, fd in self._held.values()
                if (found := _found(os.fstat(fd))) != WANTED]

    def _watch(self) -> None:
        while not self._ended.is_set():
            for name in os.listdir(self._folder):
                with suppress(FileNotFoundError):
                    self._look(name)
            self._ended.wait(0.001)

    def _look(self, name: str) -> None:
        fd = os.open(self._folder / name, os.O_PATH | os.O_NOFOLLOW
                     | os.O_CLOEXEC)
        status = os.fstat(fd)
        self.seen.add((name, *_found(status)))
        if _found(status) != WANTED and status.st_ino not in self._held:
            self._held[status.st_ino] = name, fd
        else:
            os.close(fd)


def _found(status: os.stat_result) -> Found:
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


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
    with Watched(share.folder) as watched:
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
        assert watched.unfinished() == []
    assert {found[1:3] for found in watched.seen} == {WANTED[:2]}
    assert not any(mode & ~FILE_MODE for *_, mode in watched.seen)
