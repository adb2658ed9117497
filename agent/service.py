# SPDX-License-Identifier: Apache-2.0
"""The agent as an oslo.service: one process, native threads.

The core starts first and takes up its jobs, whether or not the message
broker can be reached.  systemd hears READY only when requests are consumed.

Under the threading backend the service runs in the main process, without a
forked child, and handles its signals itself: oslo.service would end on
SIGHUP, and on SIGTERM would stop the service inside the signal handler,
where a lock may be held.  Under the eventlet backend only the main loop is
eventlet's; nothing is monkey-patched.

oslo.service's backend must have been chosen before this is imported.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading

from oslo_config import cfg
import oslo_messaging as messaging
from oslo_service import backend
from oslo_service import service

from assisted_snapshots.agent import conf as options
from assisted_snapshots.agent.core import Agent
from assisted_snapshots.agent.endpoint import Endpoint
from assisted_snapshots.agent.notify import Notifier
from assisted_snapshots.agent.reports import Backoff
from assisted_snapshots.agent.reports import Outbox
from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi import transport as transports
from assisted_snapshots.rpcapi.reports import ReportClient

LOG = logging.getLogger(__name__)

# Seconds for requests in progress to be answered when stopping; what was
# accepted is in the journal.
_FAREWELL = 5.0

# Requests worked on at a time, where the operator says nothing else.
_THREADS = 32

# Seconds until it is tried again to listen for requests.
_RETRY = 5.0


class AgentService(service.Service):  # type: ignore[misc]
    """Ties core, RPC server, outbox and systemd together."""

    def __init__(self, conf: cfg.ConfigOpts, agent: Agent,
                 notifier: Notifier) -> None:
        super().__init__()
        self._conf = conf
        self._agent = agent
        self._notifier = notifier
        self._transport = transports.make(conf)
        self._endpoint = Endpoint(agent)
        reports = ReportClient(
            self._transport, conf.reports.server or agent.host,
            conf.reports.topic, conf.reports.timeout)
        self._outbox = Outbox(agent.journal, reports.report, _backoff(conf))
        self._server: messaging.RPCServer | None = None
        self._stopping = threading.Event()
        self._bell = os.pipe()
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def start(self) -> None:
        """Take up the jobs, then listen for requests."""
        if _native():
            for signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signo, lambda number, _frame:
                              self._signals.put(number))
        self._agent.start()
        self._outbox.start()
        threading.Thread(target=self._listen, name='listen',
                         daemon=True).start()

    def wait(self) -> None:
        """Serve until told to stop."""
        if not _native():
            self._wait_green()
            return
        while self._signals.get() == signal.SIGHUP:
            self._conf.mutate_config_files()
            self.reset()
        # As oslo.service does it: a stop that hangs must not last.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(self._conf.graceful_shutdown_timeout)
        self.stop()
        signal.alarm(0)

    def _wait_green(self) -> None:
        """Wait as eventlet does; its launcher calls stop() and reset().

        A hub that watches no file sleeps for a minute without looking at
        signals.
        """
        from eventlet import hubs
        hubs.trampoline(self._bell[0], read=True)

    def reset(self) -> None:
        """Take over the mutable options that were read again."""
        try:
            settings = options.settings(self._conf)
            backoff = _backoff(self._conf)
        except (cfg.Error, ValueError) as exc:
            LOG.error('The options are left as they were: %s', exc)
            return
        self._agent.reconfigure(settings)
        self._outbox.backoff = backoff

    def stop(self, graceful: bool = True) -> None:
        """Stop serving; block jobs go on in QEMU."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        os.write(self._bell[1], b'.')
        LOG.info('Stopping')
        self._notifier.send('STOPPING=1')
        self._outbox.stop()
        self._endpoint.close()
        farewell = threading.Thread(target=self._silence, name='farewell',
                                    daemon=True)
        farewell.start()
        farewell.join(_FAREWELL)
        self._agent.stop()
        super().stop(graceful)

    def _listen(self) -> None:
        """Listen for requests, however long the broker is away."""
        self._notifier.send('STATUS=Waiting for the message broker')
        while not self._stopping.is_set():
            server = messaging.get_rpc_server(
                self._transport, target.agent(self._agent.host),
                [self._endpoint],
                access_policy=messaging.ExplicitRPCAccessPolicy)
            self._conf.set_default('executor_thread_pool_size', _THREADS)
            self._endpoint.allow(self._conf.executor_thread_pool_size // 2)
            try:
                server.start()
            except Exception as exc:
                LOG.error('Cannot listen for requests, next attempt in '
                          '%.0f s: %s', _RETRY, exc)
                self._stopping.wait(_RETRY)
                continue
            self._server = server
            LOG.info('Agent of %s is ready', self._agent.host)
            self._notifier.send('READY=1\nSTATUS=Ready')
            return

    def _silence(self) -> None:
        """Take no more requests, answer those that were taken."""
        if self._server:
            self._server.stop()
            self._server.wait()


def _native() -> bool:
    return bool(backend.get_backend_type() is backend.BackendType.THREADING)


def _backoff(conf: cfg.ConfigOpts) -> Backoff:
    return Backoff(conf.reports.retry_interval,
                   conf.reports.retry_interval_max)

