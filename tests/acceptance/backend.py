# SPDX-License-Identifier: Apache-2.0
"""Puts this project's driver under Cinder's own functional tests.

Nothing of Cinder's tests is copied: they are inherited, and only the
options change.  What is shared by all drivers' tests there stays as it is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
import subprocess
import sys
from typing import Any

from cinder import privsep
from cinder import service
from cinder.tests.functional import functional_helpers
from cinder.volume import configuration
import fixtures
from oslo_config import cfg
from oslo_utils import importutils

from tests.functional.lab import namespace

DRIVER = 'assisted_snapshots.cinder_driver.nfs.NfsDriver'
EXPORT = '127.0.0.1:/volumes'
#: Where Cinder's wheel puts what its source tree has in etc/cinder.
ETC = Path(sys.prefix, 'etc', 'cinder')


class Backend(functional_helpers._FunctionalTestBase):
    """Goes before one of Cinder's functional test classes.

    What its test base replaces by mocks although a driver needs it, the
    coordination and the workers' rows, is left as it is.
    """

    RESOURCE_FILTER_PATH = str(ETC / 'resource_filters.json')
    MOCK_TOOZ = False
    MOCK_WORKER = False

    def _get_flags(self) -> dict[str, dict[str, Any]]:
        """The test's options, with this driver on a share of its own."""
        folder = Path(self.useFixture(fixtures.TempDir()).path)
        self._mount(folder)
        # Registers the driver's options.
        importutils.import_class(DRIVER)
        options = {
            'volume_driver': DRIVER,
            'nfs_mount_point_base': str(folder / 'mnt'),
            'nfs_shares_config': str(folder / 'shares'),
            'nfs_snapshot_support': True,
            'nas_secure_file_operations': 'false',
            'nas_secure_file_permissions': 'false'}
        group = configuration.SHARED_CONF_GROUP
        return {**super()._get_flags(),
                **{name: {'v': value, 'g': group}
                   for name, value in options.items()}}

    def _mount(self, folder: Path) -> None:
        digest = hashlib.md5(EXPORT.encode(), usedforsecurity=False)
        mount = folder / 'mnt' / digest.hexdigest()
        for made in (mount, folder / 'share'):
            made.mkdir(parents=True)
        (folder / 'shares').write_text(f'{EXPORT}\n')
        namespace.enter()
        subprocess.run(['mount', '--bind', folder / 'share', mount],
                       check=True)
        self.addCleanup(namespace.unmount, mount)
        privsep.sys_admin_pctxt.set_client_mode(False)

    def _start_api_service(self) -> None:
        """As Cinder's, with api-paste.ini where its wheel has it."""
        # Not registered yet: Cinder's own tests set it so, too.
        cfg.CONF.api_paste_config = (  # type: ignore[attr-defined]
            str(ETC / 'api-paste.ini'))
        self.osapi = service.WSGIService('osapi_volume')
        self.osapi.start()
        self.auth_url = (f'http://{self.osapi.host}:{self.osapi.port}'
                         f'/v{self.osapi_version_major}')

    def _common_cleanup(self) -> None:
        """As Cinder's, but what pytest has put on the test stays for it."""
        name = self._testMethodName
        test = getattr(self, name)
        super()._common_cleanup()
        setattr(self, name, test)
