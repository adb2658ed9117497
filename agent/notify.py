# SPDX-License-Identifier: Apache-2.0
"""Tells systemd how the service fares.

oslo.service can only say that it is ready, and its eventlet launcher says so
before a request could be answered.  So the socket's name is taken out of the
environment, from oslo.service and from child processes alike.
"""

from __future__ import annotations

from collections.abc import MutableMapping
import logging
import socket

LOG = logging.getLogger(__name__)


class Notifier:
    """Sends states to systemd, or nowhere if nobody asked for them."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop('NOTIFY_SOCKET', '')
        if address.startswith('@'):  # in the abstract namespace
            address = '\0' + address[1:]
        self._address = address

    def send(self, state: str) -> None:
        """Send a state, such as ``READY=1``."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(state.encode(), self._address)
            except OSError:
                LOG.warning('systemd could not be told %s', state,
                            exc_info=True)
