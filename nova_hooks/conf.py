# SPDX-License-Identifier: Apache-2.0
"""The hooks' options, in nova.conf.

They are registered on the object that is passed in, as Nova's own are.
"""

from __future__ import annotations

from collections.abc import Sequence

from oslo_config import cfg

GROUP = 'assisted_snapshots'

opts = [
    cfg.StrOpt(
        'transport_url', secret=True,
        help='Message broker of the agents, if it is not the one of Nova.'),
    cfg.FloatOpt(
        'agent_timeout', default=10.0, min=1.0,
        help='Seconds to wait for an answer of the agent on this host.'),
    cfg.FloatOpt(
        'agent_patience', default=60.0, min=0.0,
        help='Seconds for which a request is repeated to an agent that does '
             'not answer, before it is refused.'),
    cfg.FloatOpt(
        'job_patience', default=15.0, min=0.0,
        help='Seconds for which what a job is in the way of (live migration, '
             'resize, detach, ...) waits for its end before it is refused. '
             'Keep it well below the rpc_response_timeout of Nova.'),
    cfg.StrOpt(
        'report_topic', default='assisted-snapshot-report',
        help='Topic on which the reports of the agent are taken; the same '
             'as its option "topic" in the section [reports].'),
    cfg.FloatOpt(
        'progress_interval', default=5.0, min=0.0,
        help='Seconds between two updates of the progress of a snapshot in '
             'Cinder; 0 leaves them out.'),
    cfg.StrOpt(
        'glusterfs_mount_point_base', default='$state_path/mnt',
        help='Folder that holds the mount points of Gluster shares.'),
]


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """Return all options, for oslo-config-generator."""
    return [(GROUP, opts)]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options of the hooks."""
    conf.register_opts(opts, group=GROUP)
