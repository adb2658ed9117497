# SPDX-License-Identifier: Apache-2.0
"""What systemd hears."""

from __future__ import annotations

from pathlib import Path
import socket
import tempfile
import uuid

import pytest

from assisted_snapshots.agent.notify import Notifier


@pytest.mark.parametrize('abstract', [False, True])
def test_states_reach_the_socket(abstract: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = f'@{uuid.uuid4()}' if abstract else f'{folder}/socket'
        systemd.bind(name.replace('@', '\0') if abstract else name)
        notifier = Notifier({'NOTIFY_SOCKET': name})
        notifier.send('READY=1')
        notifier.send('STOPPING=1')
        assert [systemd.recv(99) for _ in range(2)] == [b'READY=1',
                                                        b'STOPPING=1']


def test_nobody_else_may_use_the_socket() -> None:
    environ = {'NOTIFY_SOCKET': '/run/x', 'HOME': '/'}
    Notifier(environ)
    assert environ == {'HOME': '/'}


def test_without_systemd_it_is_silent() -> None:
    Notifier({}).send('READY=1')


def test_systemd_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    Notifier({'NOTIFY_SOCKET': str(tmp_path / 'gone')}).send('READY=1')
