# SPDX-License-Identifier: Apache-2.0
"""The agent's options, and how they become its settings.

Options are registered on the object that is passed in: there is no global
configuration.  This module must not import anything that loads
oslo.messaging, because the options decide on which threads it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
import logging
from pathlib import Path
import socket
from typing import Any

from oslo_config import cfg
from oslo_log import log

from assisted_snapshots.agent.settings import AgentSettings
from assisted_snapshots.agent.settings import MUTABLE

LOG = logging.getLogger(__name__)

PROJECT = 'assisted-snapshots'
PROG = 'assisted-snapshot-agent'

default_opts = [
    cfg.StrOpt(
        'concurrency_backend', default='threading',
        choices=[('threading', 'native threads'),
                 ('eventlet', 'eventlet runs the main loop; the workers are '
                  'native threads nevertheless')],
        help='Backend of oslo.service.'),
]

agent_opts = [
    cfg.HostAddressOpt(
        'host', default=socket.gethostname(),
        sample_default='compute-1.example.org',
        help='Name under which this agent is called; what Nova calls the '
             'host.'),
    cfg.StrOpt(
        'libvirt_uri', default='qemu:///system',
        help='The hypervisor this agent works on.'),
    cfg.StrOpt(
        'state_dir', default='/var/lib/assisted-snapshots',
        help='Folder of the journal, on local storage. Two agents must not '
             'share it.'),
    cfg.IntOpt(
        'bandwidth', default=0, min=0, mutable=True,
        help='Limit of a merge in bytes per second where the request names '
             'none; 0 is no limit.'),
    cfg.FloatOpt(
        'poll_interval', default=1.0, min=0.05, mutable=True,
        help='Seconds after which a running job is looked at although no '
             'event came; also the resolution of the progress.'),
    cfg.FloatOpt(
        'quiesce_timeout', default=30.0, min=1.0, mutable=True,
        help='Seconds after which a frozen guest is thawed, whatever '
             'happens.'),
    cfg.FloatOpt(
        'create_deadline', default=60.0, min=1.0, mutable=True,
        help='Seconds within which an accepted snapshot must begin; later '
             'it fails instead of being taken late.'),
    cfg.FloatOpt(
        'stall_window', default=60.0, min=1.0, mutable=True,
        help='Seconds without any progress after which a job is reported as '
             'stalled. It goes on.'),
    cfg.FloatOpt(
        'convergence_window', default=60.0, min=1.0, mutable=True,
        help='Seconds after which an active commit whose remainder does not '
             'shrink is reported as not converging. It goes on.'),
    cfg.BoolOpt(
        'raise_bandwidth', default=True, mutable=True,
        help='Lift the limit of an active commit that does not converge.'),
    cfg.FloatOpt(
        'job_retention', default=7 * 86400.0, min=0.0, mutable=True,
        help='Seconds for which an ended job is remembered.'),
    cfg.IntOpt(
        'max_running_jobs', default=8, min=1, mutable=True,
        help='Merges that run at a time; others wait for their turn.'),
    cfg.IntOpt(
        'flush_attempts', default=8, min=1, mutable=True,
        help='How often a merge is tried to be made durable before it '
             'fails. No file is removed then.'),
    cfg.IntOpt(
        'max_layers', default=24, min=2, max=200, mutable=True,
        help='Layers that a chain may have after a snapshot. libvirt 11.3 '
             'starts no guest with more than 25, though one that runs can '
             'have them; raise this only where your libvirt was seen to '
             'start such a guest.'),
]

# Not in the sample: only fault tests have a use for it.
fault_opts = [
    cfg.IntOpt('crash_at', default=0, min=0,
               help='SIGKILL this process after so many journal writes.'),
]

report_opts = [
    cfg.StrOpt(
        'topic', default='assisted-snapshot-report',
        help='Topic of the callback endpoint that takes the reports.'),
    cfg.StrOpt(
        'server',
        help='Host of the callback endpoint; by default the host of this '
             'agent.'),
    cfg.FloatOpt(
        'timeout', default=10.0, min=1.0,
        help='Seconds within which a report must be acknowledged.'),
    cfg.FloatOpt(
        'retry_interval', default=1.0, min=0.05, mutable=True,
        help='Seconds until a report is sent again; doubled with every '
             'attempt.'),
    cfg.FloatOpt(
        'retry_interval_max', default=60.0, min=0.05, mutable=True,
        help='The most seconds between two attempts.'),
]


def list_opts() -> list[tuple[str | None, Sequence[cfg.Opt]]]:
    """Return all options, for oslo-config-generator."""
    return [(None, default_opts), ('agent', agent_opts),
            ('reports', report_opts)]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register all options of the agent."""
    for group, opts in list_opts():
        conf.register_opts(opts, group=group)
    conf.register_opts(fault_opts, group='agent')


class ConfigError(Exception):
    """An option has a value nobody can work with."""

    message = '{option}: {reason}'

    def __init__(self, option: str, reason: object) -> None:
        super().__init__(self.message.format(option=option, reason=reason))


class Options(cfg.ConfigOpts):
    """Options that survive a broken file when they are read again."""

    def mutate_config_files(self) -> Any:
        """Read the files again; a broken one leaves the options alone."""
        try:
            return super().mutate_config_files()
        except cfg.Error as exc:
            LOG.error('The options are left as they were: %s', exc)
            return {}


def load(argv: Sequence[str]) -> cfg.ConfigOpts:
    """Read the command line and the configuration files it names."""
    conf = Options()
    register_opts(conf)
    log.register_options(conf)
    conf(list(argv), project=PROJECT, prog=PROG)
    return conf


def settings(conf: cfg.ConfigOpts) -> AgentSettings:
    """Return the settings of the core; reading them checks them."""
    group = conf.agent
    return AgentSettings(
        state_dir=Path(group.state_dir), libvirt_uri=group.libvirt_uri,
        crash_at=group.crash_at,
        **{name: getattr(group, name) for name in MUTABLE})
