# SPDX-License-Identifier: Apache-2.0
"""The NFS driver: Cinder's own for shares and mounts, ours for chains.

``volume_driver = assisted_snapshots.cinder_driver.nfs.NfsDriver`` in place
of ``cinder.volume.drivers.nfs.NfsDriver``, with the same options.  Files are
the same too, so a backend can go back at any time between operations.
"""

from __future__ import annotations

from cinder import interface
from cinder.volume.drivers import nfs
from oslo_config import cfg

from assisted_snapshots.cinder_driver import options
from assisted_snapshots.cinder_driver.mixin import AssistedSnapshots


@interface.volumedriver
class NfsDriver(AssistedSnapshots, nfs.NfsDriver):
    """NFS volumes, with snapshots taken while guests go on writing."""

    VERSION = '1.0.0'
    CI_WIKI_NAME = 'Assisted_Snapshots_CI'

    @staticmethod
    def get_driver_options() -> list[cfg.Opt]:
        """Return upstream's options and ours."""
        return [*nfs.NfsDriver.get_driver_options(), *options.driver_opts]
