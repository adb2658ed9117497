# SPDX-License-Identifier: Apache-2.0
"""The way to the message broker, and a call on it that always ends.

oslo.messaging waits without limit for a broker that is away: it applies the
timeout of a call only once the reply queue exists.  :class:`Caller` closes
that gap and turns every way a call can go wrong into one of this room's
errors, so that no user of a client meets oslo.messaging's own.
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import importlib
import threading
from typing import Any

from kombu.exceptions import OperationalError
from oslo_config import cfg
import oslo_messaging as messaging

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import target as targets

# Nobody listens there: a message to it shows that the broker can be reached.
_NOWHERE = 'assisted-snapshot-nowhere'

# Attempts to send after the first; they take some six seconds together.
_RETRIES = 2

_VERSION_ERRORS = ('UnsupportedVersion', 'NoSuchMethod')


def make(conf: cfg.ConfigOpts | None = None,
         url: str | None = None) -> messaging.RPCTransport:
    """Return a transport for ``url``, or for what ``conf`` says.

    Without ``conf`` the options of oslo.messaging have their defaults and no
    configuration file is read.
    """
    if conf is None:
        conf = cfg.ConfigOpts()
        conf([], project='assisted-snapshots', default_config_files=[],
             default_config_dirs=[])
    _complete(conf)
    return messaging.get_rpc_transport(
        conf, url, allowed_remote_exmods=list(targets.EXMODS))


def _complete(conf: cfg.ConfigOpts) -> None:
    """Register what oslo.messaging reads from ``conf`` but registers only
    on the global object.

    It has no public list of these options, and not every release has both
    groups.
    """
    for group in ('metrics', 'tracing'):
        name = f'oslo_messaging_{group}'
        with contextlib.suppress(ImportError):
            module = importlib.import_module(f'oslo_messaging._{group}.client')
            conf.register_opts(getattr(module, name), group=name)


class Caller:
    """Calls methods of one peer; any thread may use it.

    :ivar timeout: seconds until a call is given up, besides those that the
        peer was asked to wait.
    """

    def __init__(self, transport: messaging.RPCTransport,
                 target: messaging.Target, timeout: float) -> None:
        self.timeout = timeout
        self._peer = f'{target.topic} on {target.server}'
        self._target = target
        self._client = messaging.get_rpc_client(transport, target,
                                                retry=_RETRIES)
        self._reached = False
        self._lock = threading.Lock()

    def call(self, method: str, args: Mapping[str, object] | None = None,
             seconds: float = 0.0, version: str = '') -> Any:
        """Call a method and return its result.

        A request that could not be delivered in time expires in the broker:
        a peer that comes up later does not find it.

        :param seconds: how long the peer may take on purpose.
        :param version: RPC version the method came with, if not the first.
        """
        version = version or str(self._target.version)
        timeout = self.timeout + seconds
        try:
            self._reach()
            context = self._client.prepare(timeout=timeout, version=version)
            return context.call({}, method, **(args or {}))
        except messaging.MessagingTimeout:
            raise errors.PeerSilent(host=self._peer, method=method,
                                    seconds=timeout) from None
        except (messaging.MessageDeliveryFailure, OperationalError) as exc:
            raise errors.BrokerUnreachable(reason=str(exc)) from exc
        except errors.AgentError as exc:
            raise errors.plain(exc) from None
        except messaging.RemoteError as exc:
            raise self._nameless(method, version, exc) from None
        except Exception as exc:
            # oslo.messaging raises the peer's built-in exceptions as they
            # are, the remote traceback in their text.
            raise errors.InternalError(
                host=self._peer, method=method,
                reason=f'{type(exc).__name__}: {exc}') from exc

    def _reach(self) -> None:
        """Send something that needs no reply queue, in bounded time."""
        with self._lock:
            if self._reached:
                return
            try:
                self._client.prepare(topic=_NOWHERE).cast({}, 'hello')
            except Exception as exc:
                # Each driver and library below has its own.
                raise errors.BrokerUnreachable(reason=str(exc)) from exc
            self._reached = True

    def _nameless(self, method: str, version: str,
                  exc: messaging.RemoteError) -> errors.AgentError:
        if exc.exc_type in _VERSION_ERRORS:
            return errors.NotUnderstood(host=self._peer, method=method,
                                        version=version, reason=exc.value)
        return errors.InternalError(host=self._peer, method=method,
                                    reason=f'{exc.exc_type}: {exc.value}')
