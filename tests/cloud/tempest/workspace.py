# SPDX-License-Identifier: Apache-2.0
"""What tempest needs to test a cloud: itself, its configuration, a place.

Options say what the cloud and its backend can; what they leave out is named
in ``left_out.txt``.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.cloud.lab import config
from tests.cloud.lab import install
from tests.cloud.lab.api import Answer
from tests.cloud.lab.api import Api
from tests.cloud.lab.project import Project
from tests.cloud.lab.project import ROOT_SIZE
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import PASSWORD
from tests.cloud.lab.settings import REGION
from tests.cloud.lab.settings import Settings
from tests.functional.lab import paths

VENV = paths.TMP / 'cloud/tempest-venv'
REQUIREMENTS = (
    'cinder-tempest-plugin>=1.23',
    'keystoneauth1>=5',
    'pymysql>=1.1',
    'tempest>=47',
)
#: Seconds that an operation may take; the machine may be busy.
PATIENCE = 900
HERE = Path(__file__).parent
#: Tempest's users are no administrators: those may not do without a root
#: disk.
FLAVORS = {'small': 192, 'large': 256}
#: Of the guest's image; without them it does not boot.
PROPERTIES = ('kernel_id', 'ramdisk_id', 'os_command_line', 'hw_disk_bus',
              'hw_qemu_guest_agent')


class Workspace:
    """A folder from which tempest is run against one cloud."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.folder.with_name(
            f'{settings.folder.name}.tempest')

    @property
    def environment(self) -> dict[str, str]:
        """Environment of tempest."""
        return os.environ | {
            'TEMPEST_CONFIG_DIR': str(self.folder),
            'TEMPEST_CLOUD': str(self.settings.folder),
            'PYTHONPATH': str(paths.CHECKOUT), 'PYTHONWARNINGS': 'ignore'}

    @property
    def _hooks(self) -> bool:
        """Whether every Nova leaves encrypted volumes as they are."""
        return all(self.settings.has_hooks(host) for host in HOSTS)

    def make(self) -> None:
        """Install tempest, and write its files."""
        install.ensure(VENV, REQUIREMENTS)
        (self.folder / 'locks').mkdir(parents=True, exist_ok=True)
        config.write(self.folder / '.stestr.conf', {'DEFAULT': {
            'test_path': HERE / 'discover', 'top_dir': paths.CHECKOUT,
            # The tests of a class share what is made for the class.
            'group_regex': r'([^\.]*\.)*'}})
        config.write(self.folder / 'tempest.conf', self._options())

    def _options(self) -> config.Sections:
        project = Project(Api(self.settings))
        image = project.image()
        flavors = [_flavor(project, name) for name in FLAVORS]
        return {
            **self._cloud(),
            'compute': {
                'image_ref': image, 'image_ref_alt': image,
                'flavor_ref': flavors[0], 'flavor_ref_alt': flavors[1],
                'min_compute_nodes': len(HOSTS),
                'build_timeout': PATIENCE, 'max_microversion': 'latest'},
            'compute-feature-enabled': {
                'resize': True, 'swap_volume': False,
                'attach_encrypted_volume': self._hooks,
                'volume_backed_live_migration': True,
                'block_migration_for_live_migration': False,
                'metadata_service': False, 'config_drive': False},
            # Guests are reached through their agent: see discover/.
            'validation': {'run_validation': False,
                           'connect_method': 'fixed'},
            'scenario': self._image(project, image),
            'volume': self._volume(),
            'volume-feature-enabled': self._features(project.api)}

    def _cloud(self) -> config.Sections:
        settings = self.settings
        return {
            'DEFAULT': {'debug': True,
                        'log_file': self.folder / 'tempest.log'},
            'auth': {'admin_username': 'admin', 'admin_password': PASSWORD,
                     'admin_project_name': 'admin',
                     'admin_domain_name': 'Default',
                     'create_isolated_networks': False},
            'identity': {'uri_v3': settings.auth_url, 'auth_version': 'v3',
                         'region': REGION},
            'oslo_concurrency': {'lock_path': self.folder / 'locks'},
            # The stand-in of Neutron has no networks.
            'service_available': {'neutron': True, 'swift': False,
                                  'horizon': False},
            'network': {'public_network_id': 'none'},
            'network-feature-enabled': {'floating_ips': False},
            'image': {'build_timeout': PATIENCE},
            'image-feature-enabled': {'import_image': False}}

    def _image(self, project: Project, image: str) -> dict[str, object]:
        """The guest, for tests that upload an image themselves."""
        found = project.api.image.get(f'/v2/images/{image}')
        disk = self.folder / 'disk'
        # Zeros alone would be an empty archive to tempest.
        disk.write_bytes(b'disk'.ljust(ROOT_SIZE, b'\0'))
        return {
            'target_dir': '/mnt', 'img_file': disk, 'img_disk_format': 'raw',
            'img_properties': ','.join(f'{name}:{found[name]}'
                                       for name in PROPERTIES)}

    def _volume(self) -> dict[str, object]:
        return {
            'storage_protocol': 'NFS', 'backup_driver': 'posix',
            'build_timeout': PATIENCE, 'max_microversion': 'latest',
            'backend_names': ','.join(self.settings.shares),
            'manage_volume_ref':
                f'source-name,127.0.0.1:{self.settings.share}/volume-%s'}

    def _features(self, api: Api) -> dict[str, object]:
        pools = api.volume.get('/scheduler-stats/get_pools?detail=true')
        backend: Answer = pools['pools'][0]['capabilities']
        return {
            'backup': True, 'snapshot': True, 'clone': True,
            'multi_backend': len(self.settings.shares) > 1,
            'manage_volume': True, 'manage_snapshot': False,
            'volume_revert': True, 'concurrency_tests': True,
            'extend_volume_with_snapshot': True,
            'extend_attached_volume': backend['online_extend_support'],
            'extend_attached_encrypted_volume': self._hooks}


def _flavor(project: Project, name: str) -> str:
    """A flavor with a root disk, made once."""
    compute = project.api.compute
    known = {one['name']: one['id']
             for one in compute.get('/flavors')['flavors']}
    if name not in known:
        made = compute.post('/flavors', {'flavor': {
            'name': name, 'ram': FLAVORS[name], 'vcpus': 1, 'disk': 1}})
        return str(made['flavor']['id'])
    return str(known[name])
