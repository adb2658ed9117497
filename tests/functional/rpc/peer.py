# SPDX-License-Identifier: Apache-2.0
"""A peer that behaves as a test wants: older, newer, silent, failing.

It answers real calls over the real broker with real oslo.messaging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oslo_messaging as messaging

from assisted_snapshots.rpcapi import target as targets
from assisted_snapshots.rpcapi import transport

Answer = Callable[..., Any]


class Peer:
    """An RPC server with the given methods.

    :ivar calls: method and arguments of every call that arrived.
    """

    def __init__(self, url: str, host: str, topic: str = targets.TOPIC,
                 version: str = targets.VERSION, **methods: Answer) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._endpoint = self._make(version, methods)
        self._transport = transport.make(url=url)
        self._target = targets.agent(host, topic)
        self._server: messaging.RPCServer | None = None

    def start(self) -> Peer:
        """Listen."""
        self._server = messaging.get_rpc_server(
            self._transport, self._target, [self._endpoint])
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop listening; calls that arrive stay in the broker."""
        if self._server:
            self._server.stop()
            self._server.wait()
            self._server = None

    def close(self) -> None:
        """Stop, and leave the broker."""
        self.stop()
        self._transport.cleanup()

    def _make(self, version: str, methods: dict[str, Answer]) -> object:
        def method(name: str, answer: Answer) -> Answer:
            def called(_self: object, _context: object,
                       **args: Any) -> Any:
                self.calls.append((name, args))
                return answer(**args)
            return called
        body = {name: method(name, answer)
                for name, answer in methods.items()}
        target = messaging.Target(version=version)
        return type('Endpoint', (), body | {'target': target})()
