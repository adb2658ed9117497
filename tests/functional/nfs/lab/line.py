# SPDX-License-Identifier: Apache-2.0
"""For code that runs in a client: how it speaks to the test meanwhile."""

from __future__ import annotations

import json
import socket

#: To the client's runner, once there is one.
conversation: socket.socket | None = None


def tell(what: object) -> None:
    """Let the test know; it reads this as the job's next event."""
    assert conversation is not None, 'runs in no client'
    conversation.sendall(json.dumps({'event': what}).encode() + b'\n')


def ask(what: object) -> None:
    """Let the test know, and wait until it says that one may go on."""
    tell(what)
    assert conversation is not None
    conversation.recv(1)
