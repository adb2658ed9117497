# SPDX-License-Identifier: Apache-2.0
"""Nothing that a chain waits for stops the hub of a patched service."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import VolumeFiles
from tests.functional.cinder.lab.world import World

#: Seconds of ticks that have to come while it waits.
TICKS = 5

_SLOW = '''\
#!/bin/sh
while [ -e {hold} ]; do sleep 0.05; done
exec {tool} "$@"
'''


@pytest.mark.parametrize('what', ['lock', 'tool'])
def test_others_go_on_meanwhile(cinder: World, what: str) -> None:
    volume = cinder.volume()
    cinder.write(volume, 0x11)
    row = cinder.snapshot_row(volume)
    if what == 'lock':
        with VolumeLock(VolumeFiles(cinder.share, volume.name)):
            process = patched(cinder.folder, row.id)
            with killed_if_it_fails(process):
                ticks(process)
    else:
        hold = cinder.folder / 'hold'
        hold.touch()
        slow = cinder.folder / 'bin' / 'qemu-img'
        slow.parent.mkdir()
        slow.write_text(_SLOW.format(hold=hold,
                                     tool=shutil.which('qemu-img')))
        slow.chmod(0o755)
        process = patched(cinder.folder, row.id, slow.parent)
        with killed_if_it_fails(process):
            ticks(process)
        hold.unlink()
    output, _ = process.communicate()
    assert process.returncode == 0
    assert output.endswith('done\n')
    cinder.settle(row, {})
    cinder.audit(volume, row)


def patched(folder: Path, snapshot: str, tools: Path | None = None
            ) -> subprocess.Popen[str]:
    """Start a driver that takes a snapshot."""
    path = f'{tools}:{os.environ["PATH"]}' if tools else os.environ['PATH']
    return subprocess.Popen(
        [sys.executable, '-m', 'tests.functional.cinder.ticking',
         folder, snapshot], stdout=subprocess.PIPE, text=True,
        env=os.environ | {'PATH': path})


@contextmanager
def killed_if_it_fails(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no process behind."""
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise


def ticks(process: subprocess.Popen[str]) -> None:
    """Read ticks, of which no end comes while the chain waits."""
    assert process.stdout is not None
    said = ''
    read: Callable[[], str] = process.stdout.readline
    while said != 'begun\n':
        said = read()
        assert said, 'it ended before it began'
    # The first ones may come before it waits.
    assert [read() for _ in range(20 * TICKS)] == ['tick\n'] * 20 * TICKS
