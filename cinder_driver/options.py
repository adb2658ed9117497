# SPDX-License-Identifier: Apache-2.0
"""The options that this project adds to a backend's section.

Upstream's options keep their names and their meaning; these only add to
them.  Nothing here may change what a configuration without them does, but
for what upstream cannot do at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from cinder.volume import configuration
from oslo_config import cfg

driver_opts: list[cfg.Opt] = [
    cfg.StrOpt(
        'assisted_agent', default='auto',
        choices=[('auto', "use the agent of the guest's host if it and "
                          "the hooks of Nova there answer, else Nova's "
                          'assisted-snapshot API'),
                 ('always', 'use the agent only; Nova has the hooks, or '
                            'guests are not started by Nova'),
                 ('never', "use Nova's assisted-snapshot API only")],
        help='Who works on the disks of running guests.'),
    cfg.StrOpt(
        'assisted_agent_transport_url', secret=True,
        help='Message broker of the agents; by default the transport_url '
             'of Cinder itself.'),
    cfg.IntOpt(
        'assisted_agent_patience', default=120, min=1,
        help='Seconds without any contact to an agent until an operation '
             "is given up.  The agent's job goes on, and repeating the "
             'operation finds it.'),
    cfg.IntOpt(
        'assisted_nova_patience', default=600, min=1,
        help='Seconds to wait for an unmodified Nova while nothing is seen '
             'of what it was asked for; while QEMU is seen at work there is '
             'no limit.  A merge that is given up is looked for again when '
             'the delete is repeated.'),
    cfg.StrOpt(
        'assisted_quiesce', default='try',
        choices=[('off', 'do not ask the guest'),
                 ('try', 'freeze file systems if the guest agent can'),
                 ('require', 'fail rather than take a snapshot that is '
                             'only crash-consistent')],
        help='Whether file systems of the guest are frozen while a '
             'snapshot is taken.'),
    cfg.IntOpt(
        'assisted_bandwidth', default=0, min=0,
        help='Bytes per second that the merge of a snapshot in a running '
             'guest may copy; 0 for what the agent is configured for.'),
    cfg.StrOpt(
        'assisted_raw_views', default='auto',
        choices=[('auto', 'a FUSE export where it can serve, else a file '
                          'on the share'),
                 ('staged', 'always a file on the share: for services in '
                            'containers that do not see the same '
                            'mounts')],
        help='How backup, migration and upload see the '
             'content of a volume that is more than one raw file.'),
    cfg.IntOpt(
        'assisted_recovery_interval', default=300, min=0,
        help='Seconds between two looks for operations that a crash has '
             'cut short; 0 to look only when the service starts.'),
]


def list_opts() -> list[tuple[str | None, Sequence[cfg.Opt]]]:
    """Return all options, for oslo-config-generator."""
    return [(configuration.SHARED_CONF_GROUP, driver_opts)]


cfg.CONF.register_opts(driver_opts, group=configuration.SHARED_CONF_GROUP)
