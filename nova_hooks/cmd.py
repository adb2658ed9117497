# SPDX-License-Identifier: Apache-2.0
"""Console script ``nova-compute-assisted``: nova-compute with the hooks.

Nova loads drivers only from its own package ``nova.virt``, so the driver is
registered there under the name ``nova.virt.assisted`` before Nova's own main
runs, unchanged.

Nothing may be imported before ``nova.cmd.compute``: that decides whether the
process runs on native threads or on eventlet.
"""

from __future__ import annotations

import sys
import types

_NAME = 'nova.virt.assisted'


def main() -> int:
    """Run nova-compute; 2 if this Nova is not one the hooks fit."""
    from nova.cmd import compute

    from assisted_snapshots.nova_hooks.errors import DoesNotFit

    try:
        register()
    except DoesNotFit as exc:
        sys.stderr.write(f'nova-compute-assisted: {exc}\n')
        return 2
    compute.main()
    return 0


def register() -> None:
    """Make ``compute_driver = assisted.LibvirtDriver`` loadable.

    :raises DoesNotFit: the hooks were not written for this Nova.
    """
    from nova import rpc
    from nova import version
    import nova.conf
    from nova.virt.libvirt import driver as libvirt_driver

    from assisted_snapshots.nova_hooks import compat
    from assisted_snapshots.nova_hooks import conf
    from assisted_snapshots.nova_hooks import driver
    from assisted_snapshots.nova_hooks import glusterfs
    from assisted_snapshots.nova_hooks import relied_on
    from assisted_snapshots.rpcapi import target

    compat.check(version.version_string(), relied_on.RELIED_ON)
    module = types.ModuleType(_NAME)
    vars(module)['LibvirtDriver'] = driver.AssistedLibvirtDriver
    libvirt_driver.VOLUME_DRIVERS.setdefault(
        'glusterfs', f'{glusterfs.__name__}.GlusterfsVolumeDriver')
    sys.modules[_NAME] = module
    conf.register_opts(nova.conf.CONF)
    rpc.add_extra_exmods(*target.EXMODS)


if __name__ == '__main__':
    sys.exit(main())
