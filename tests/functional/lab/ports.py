# SPDX-License-Identifier: Apache-2.0
"""Free TCP ports on loopback, as the kernel names them."""

from __future__ import annotations

from contextlib import ExitStack
import socket


def free(count: int) -> list[int]:
    """So many different ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket())
                   for _ in range(count)]
        for sock in sockets:
            sock.bind(('127.0.0.1', 0))
        return [sock.getsockname()[1] for sock in sockets]


def open_(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(('127.0.0.1', port)) == 0
