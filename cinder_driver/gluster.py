# SPDX-License-Identifier: Apache-2.0
"""The GlusterFS driver: volumes as files on a FUSE mount of Gluster.

Cinder has no driver for it since its 10th release.  This one has the
options that one had, and everything that touches a chain from
:class:`~assisted_snapshots.cinder_driver.mixin.AssistedSnapshots`; it is
also the example of what a RemoteFS driver has to bring along: mounting, and
the choice of a share.

Files are never made by root, so nothing distinguishes a secure mode; what
``nas_secure_file_permissions`` says about modes holds here too.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any

from cinder import exception
from cinder import interface
from cinder import objects
from cinder import utils
from cinder.context import RequestContext
from cinder.volume import configuration
from cinder.volume import volume_utils
from cinder.volume.drivers import remotefs
from os_brick.remotefs import remotefs as brick
from oslo_concurrency import processutils
from oslo_config import cfg
from oslo_utils import units

from assisted_snapshots.cinder_driver import options
from assisted_snapshots.cinder_driver.mixin import AssistedSnapshots

gluster_opts: list[cfg.Opt] = [
    cfg.StrOpt(
        'glusterfs_shares_config', default='/etc/cinder/glusterfs_shares',
        help='File with the list of available Gluster shares, one '
             'server:/volume in each line.'),
    cfg.StrOpt(
        'glusterfs_mount_point_base', default='$state_path/mnt',
        help='Folder that holds the mount points of Gluster shares.'),
    cfg.StrOpt(
        'glusterfs_mount_options',
        help='Options of mount.glusterfs for every share.'),
    cfg.BoolOpt(
        'glusterfs_sparsed_volumes', default=True,
        help='Create raw volumes as sparse files, which take no space yet.'),
    cfg.BoolOpt(
        'glusterfs_qcow2_volumes', default=False,
        help='Create volumes as qcow2 files rather than raw files.'),
    cfg.BoolOpt(
        'glusterfs_snapshot_support', default=True,
        help='Whether snapshots may be taken.'),
]


def list_opts() -> list[tuple[str | None, Sequence[cfg.Opt]]]:
    """Return all options, for oslo-config-generator."""
    return [(configuration.SHARED_CONF_GROUP, gluster_opts)]


cfg.CONF.register_opts(gluster_opts, group=configuration.SHARED_CONF_GROUP)


class NoShares(exception.RemoteFSException):
    """Nothing to put volumes on."""

    message = ('no Gluster share could be mounted; %(reason)s')


@interface.volumedriver
class GlusterfsDriver(AssistedSnapshots, remotefs.RemoteFSSnapDriverBase):
    """Gluster volumes, with snapshots taken while guests go on writing."""

    driver_volume_type = 'glusterfs'
    driver_prefix = 'glusterfs'
    volume_backend_name = 'GlusterFS'
    VERSION = '1.0.0'
    CI_WIKI_NAME = 'Assisted_Snapshots_CI'

    def __init__(self, execute: Any = processutils.execute, *args: Any,
                 **kwargs: Any) -> None:
        auto = kwargs.get('supports_auto_mosr', False)
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(gluster_opts)
        self._supports_encryption = True
        self._sparse_copy_volume_data = True
        self.reserved_percentage = self.configuration.reserved_percentage
        self.max_over_subscription_ratio = (
            volume_utils.get_max_over_subscription_ratio(
                self.configuration.max_over_subscription_ratio,
                supports_auto=auto))
        self.base = os.path.realpath(
            self.configuration.glusterfs_mount_point_base)
        self._remotefsclient = brick.RemoteFsClient(
            'glusterfs', utils.get_root_helper(), execute=execute,
            glusterfs_mount_point_base=self.base,
            glusterfs_mount_options=(
                self.configuration.glusterfs_mount_options))

    @staticmethod
    def get_driver_options() -> list[cfg.Opt]:
        """Return this driver's options and those of all RemoteFS drivers."""
        return [*gluster_opts, *remotefs.nas_opts, *options.driver_opts]

    def do_setup(self, context: RequestContext) -> None:
        """Mount what is configured.

        :raises NoShares: the list is missing, or no share can be mounted.
        """
        self.set_nas_security_options(False)
        listed = self.configuration.glusterfs_shares_config
        if not self.configuration.nas_host and not (
                listed and os.path.exists(listed)):
            raise NoShares(reason=f'glusterfs_shares_config names {listed}, '
                                  f'which is not there')
        self._ensure_shares_mounted()
        if not self._mounted_shares:
            raise NoShares(reason='the log of this service says why')
        super().do_setup(context)

    def set_nas_security_options(self, is_new_cinder_install: bool) -> None:
        """Resolve ``auto``: files belong to this process and its group."""
        for name in ('nas_secure_file_operations',
                     'nas_secure_file_permissions'):
            if getattr(self.configuration, name).lower() == 'auto':
                setattr(self.configuration, name, 'true')
        self._execute_as_root = (
            self.configuration.nas_secure_file_operations.lower() != 'true')

    def _ensure_share_mounted(self, share: str) -> None:
        flags = (self.shares.get(share) or '').split()
        self._remotefsclient.mount(share, flags or None)

    def _get_mount_point_for_share(self, path: str) -> str:
        return str(self._remotefsclient.get_mount_point(path))

    def _get_mount_point_base(self) -> str:
        return str(self.base)

    def _find_share(self, volume: objects.Volume) -> str:
        """Choose the share that has promised the least.

        :raises RemoteFSNoSuitableShareFound: none has room.
        """
        fit = [share for share in self._mounted_shares
               if self._is_share_eligible(share, volume.size)]
        if not fit:
            raise exception.RemoteFSNoSuitableShareFound(
                volume_size=volume.size)
        share: str = min(fit, key=lambda share: self.room(share).promised)
        return share

    def _is_share_eligible(self, share: str, size: int) -> bool:
        """Tell whether a share may promise so many GiB more."""
        room = self.room(share)
        reserved = room.total * self.reserved_percentage // 100
        return (room.free >= reserved and size * units.Gi
                < room.may_promise(self.max_over_subscription_ratio))

    def _update_volume_stats(self) -> None:
        super()._update_volume_stats()
        sparse = bool(self.configuration.glusterfs_sparsed_volumes)
        self._stats.update(
            vendor_name='Open Source',
            provisioned_capacity_gb=self._get_provisioned_capacity(),
            max_over_subscription_ratio=self.max_over_subscription_ratio,
            reserved_percentage=self.reserved_percentage,
            thin_provisioning_support=sparse,
            thick_provisioning_support=not sparse)
