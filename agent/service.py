# SPDX-License-Identifier: Apache-2.0
"""The agent as an oslo.service: one process, native threads.

The core starts first and takes up its jobs, whether or not the message
broker can be reached.  systemd hears READY only when requests are consumed.

Under the threading backend the service runs in the main process, without a
forked child.  Under the eventlet backend only the main loop is eventlet's;
nothing is monkey-patched.

Under both it handles its signals itself, outside the signal handlers, where
no lock may be taken.  oslo.service's threading backend would end on SIGHUP
and stop the service inside a handler; its eventlet backend dies of a SIGTERM
that follows a SIGHUP closely, and sleeps up to a minute before it notices a
signal when it watches no file.

oslo.service's backend must have been chosen before this is imported.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
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

_ENDS = (signal.SIGTERM, signal.SIGINT)

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
        os.set_blocking(self._bell[1], False)

    def start(self) -> None:
        """Take up the jobs, then listen for requests."""
        # Written to by the C handler, so that a signal that comes just before
        # the main thread blocks is not overlooked.
        signal.set_wakeup_fd(self._bell[1], warn_on_full_buffer=False)
        for signo in (signal.SIGHUP, *_ENDS):
            signal.signal(signo, lambda _number, _frame: None)
        self._agent.start()
        self._outbox.start()
        threading.Thread(target=self._listen, name='listen',
                         daemon=True).start()

    def wait(self) -> None:
        """Serve until told to stop."""
        while not self._stopping.is_set():
            if not _native():
                from eventlet import hubs
                hubs.trampoline(self._bell[0], read=True)
            number = os.read(self._bell[0], 1)[0]
            if number == signal.SIGHUP:
                self._conf.mutate_config_files()
                self.reset()
            elif number in _ENDS:
                self._leave()

    def _leave(self) -> None:
        """Stop, in the way the backend's launcher understands."""
        # As oslo.service does it: a stop that hangs must not last.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(self._conf.graceful_shutdown_timeout)
        self.stop()
        signal.alarm(0)
        if not _native():
            sys.exit(0)

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

