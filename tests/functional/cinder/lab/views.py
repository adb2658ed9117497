# SPDX-License-Identifier: Apache-2.0
"""Raw views as their users and the host see them."""

from __future__ import annotations

import os
from pathlib import Path
import select
import signal
import socket
from typing import Any

from cinder.volume import volume_utils

from tests.functional.cinder.lab.world import World

HERE = {'host': socket.gethostname(), 'ip': '127.0.0.1', 'initiator': '',
        'multipath': False}
THERE = {**HERE, 'host': 'another-host'}


def daemons(cinder: World) -> list[int]:
    """Process ids of storage daemons that show this world's volumes."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            said = path.read_bytes()
        except OSError:
            continue
        if (said.startswith(b'qemu-storage-daemon')
                and os.fsencode(cinder.folder) in said):
            found.append(int(path.parent.name))
    return found


def kill(cinder: World) -> None:
    """Kill the one daemon there is, and see it dead."""
    [daemon] = daemons(cinder)
    fd = os.pidfd_open(daemon)
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [])
    finally:
        os.close(fd)


def mounts(cinder: World) -> list[str]:
    """FUSE mounts of this world."""
    lines = Path('/proc/self/mountinfo').read_text().splitlines()
    return [line for line in lines
            if str(cinder.folder) in line and '/dev/fuse' in line]


def gone(cinder: World) -> None:
    """Nothing is left of any view."""
    assert daemons(cinder) == []
    assert mounts(cinder) == []
    assert list(cinder.share.glob('*.view')) == []
    assert [path for path in (cinder.folder / 'state/assisted_views').rglob(
        '*') if path.is_file()] == []


def path_of(connection: dict[str, Any]) -> Path:
    """Connect as Cinder does, by os-brick; the path it finds."""
    connector = volume_utils.brick_get_connector(
        connection['driver_volume_type'], conn=connection,
        expect_raw_disk=True)
    return Path(connector.connect_volume(connection['data'])['path'])
