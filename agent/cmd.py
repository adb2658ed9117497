# SPDX-License-Identifier: Apache-2.0
"""Console script ``assisted-snapshot-agent``.

Exit status: 0 after a clean stop, 1 when it failed, 2 when the
configuration is wrong.

It must choose oslo.service's backend before anything imports oslo.messaging,
which would choose eventlet.
"""

from __future__ import annotations

from collections.abc import Sequence
import logging
import os
import sys
from typing import TYPE_CHECKING
import warnings

from oslo_config import cfg
from oslo_log import log
from oslo_service import backend
from oslo_service import opts as service_opts

from assisted_snapshots.agent import conf as options
from assisted_snapshots.agent.journal import JournalError
from assisted_snapshots.agent.notify import Notifier

if TYPE_CHECKING:
    from assisted_snapshots.agent.service import AgentService

LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until it is stopped."""
    try:
        conf = options.load(sys.argv[1:] if argv is None else argv)
        log.setup(conf, options.PROG)
        _init_backend(conf)
        service = _build(conf)
    except (cfg.Error, log.LogConfigError, options.ConfigError,
            JournalError, OSError, ValueError) as exc:
        sys.stderr.write(f'{options.PROG}: {exc}\n')
        return 2
    if conf.log_options:
        conf.log_opt_values(LOG, logging.DEBUG)
        # eventlet's launcher would do it once more
        conf.set_override('log_options', False)
    return _serve(conf, service)


def _init_backend(conf: cfg.ConfigOpts) -> None:
    # oslo libraries import eventlet where it is installed.  Nothing here is
    # patched by it, so its resolver would be 9 MiB for nothing.
    os.environ.setdefault('EVENTLET_NO_GREENDNS', 'yes')
    # Native threads are what this agent runs on; that eventlet is installed
    # as well is no news to the operator.
    warnings.filterwarnings('ignore', message=r'\s*Eventlet is deprecated')
    backend.init_backend(backend.BackendType(conf.concurrency_backend))
    service_opts.register_service_opts(conf)


def _build(conf: cfg.ConfigOpts) -> AgentService:
    """Make the service; anything wrong with the options shows here."""
    from oslo_messaging import MessagingException

    from assisted_snapshots.agent.core import Agent
    from assisted_snapshots.agent.service import AgentService

    agent = Agent(options.settings(conf), conf.agent.host)
    try:
        return AgentService(conf, agent, Notifier(os.environ))
    except MessagingException as exc:
        raise options.ConfigError('transport_url', exc) from exc


def _serve(conf: cfg.ConfigOpts, service: AgentService) -> int:
    """Run the service in this process."""
    from oslo_service import service as oslo

    launcher = oslo.launch(conf, service, restart_method='mutate',
                           no_fork=True)
    return int(launcher.wait() or 0)


if __name__ == '__main__':
    sys.exit(main())
