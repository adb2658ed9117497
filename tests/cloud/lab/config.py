# SPDX-License-Identifier: Apache-2.0
"""The services' configuration files.

Only what a small cloud needs beside the defaults: OpenStack's own sample
files and rules are used as they are installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.cloud.lab.settings import BACKEND
from tests.cloud.lab.settings import CONTROLLER
from tests.cloud.lab.settings import PASSWORD
from tests.cloud.lab.settings import PROGRAMS
from tests.cloud.lab.settings import REGION
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.settings import VENV
from tests.functional.lab import guest_image

Options = Mapping[str, object]
Sections = Mapping[str, Options]

SERVICE_PROJECT = 'service'
INSTALLED = VENV / 'etc'
#: Seconds.
RECOVERY_INTERVAL = 10
#: Seconds; a job that a test holds would be waited for in vain.
JOB_PATIENCE = 3
#: Seconds. When libvirtd has been restarted, nova-compute connects again only
#: with the next thing it wants of libvirt, up to a minute later, and does not
#: hear of a guest that ends meanwhile. Then it is this that tells it, every
#: ten minutes by default.
POWER_INTERVAL = 20
NOVA_PASTE = INSTALLED / 'nova/api-paste.ini'


def write(path: Path, sections: Sections) -> None:
    """Write one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = ''.join(
        f'[{name}]\n' + ''.join(f'{key} = {value}\n'
                                for key, value in options.items()) + '\n'
        for name, options in sections.items())
    path.write_text(text)


def write_all(settings: Settings, inbound: Mapping[str, str]) -> None:
    """Write every service's file.

    :param inbound: host -> address that it is migrated to by.
    """
    write(settings.config('keystone'), keystone(settings))
    write(settings.config('placement'), placement(settings))
    write(settings.config('glance'), glance(settings))
    write(settings.config('cinder'), cinder(settings))
    write(settings.config('nova'), nova(settings))
    for host, address in inbound.items():
        write(settings.config(host), compute(settings, host, address))
        if settings.has_hooks(host):
            write(settings.config(f'agent-{host}'), agent(settings, host))
    for project in ('nova', 'cinder'):
        write(settings.config(f'{project}-rootwrap'), rootwrap(project))
    for backend, share in settings.shares.items():
        _shares(settings, backend).write_text(f'127.0.0.1:{share}\n')


def keystone(settings: Settings) -> Sections:
    """Keystone's."""
    keys = {name: settings.data / f'keystone/{name}'
            for name in ('fernet', 'credential')}
    return {
        'DEFAULT': {'use_stderr': True},
        'database': _database(settings, 'keystone'),
        'token': {'provider': 'fernet'},
        'fernet_tokens': {'key_repository': keys['fernet']},
        'fernet_receipts': {'key_repository': keys['fernet']},
        'credential': {'key_repository': keys['credential']}}


def placement(settings: Settings) -> Sections:
    """Placement's."""
    return {
        'DEFAULT': {'use_stderr': True},
        'api': {'auth_strategy': 'keystone'},
        'placement_database': _database(settings, 'placement'),
        'keystone_authtoken': _tokens(settings, 'placement')}


def glance(settings: Settings) -> Sections:
    """Glance's."""
    stores = settings.data / 'glance'
    return {
        'DEFAULT': {'enabled_backends': 'disk:file', 'use_stderr': True,
                    'worker_self_reference_url': settings.url('glance')},
        'database': _database(settings, 'glance'),
        'glance_store': {'default_backend': 'disk'},
        'disk': {'filesystem_store_datadir': stores / 'images'},
        'os_glance_staging_store': {
            'filesystem_store_datadir': stores / 'staging'},
        'os_glance_tasks_store': {
            'filesystem_store_datadir': stores / 'tasks'},
        'paste_deploy': {
            'flavor': 'keystone',
            'config_file': INSTALLED / 'glance/glance-api-paste.ini'},
        'keystone_authtoken': _tokens(settings, 'glance')}


def cinder(settings: Settings) -> Sections:
    """Cinder's; its backend is ours unless the settings name another."""
    state = settings.data / 'cinder'
    backends = {BACKEND: settings.cinder, **settings.backends}
    return {
        'DEFAULT': {
            'host': CONTROLLER, 'my_ip': '127.0.0.1', 'debug': True,
            'state_path': state,
            'transport_url': settings.found['rabbit'],
            'auth_strategy': 'keystone',
            'api_paste_config': INSTALLED / 'cinder/api-paste.ini',
            'resource_query_filters_file':
                INSTALLED / 'cinder/resource_filters.json',
            'rootwrap_config': settings.config('cinder-rootwrap'),
            'enabled_backends': ','.join(backends), 'report_interval': 5,
            'backup_driver': 'cinder.backup.drivers.posix.PosixBackupDriver',
            'backup_posix_path': state / 'backups', 'backup_workers': 1},
        **{name: {**_backend(settings, name), **options}
           for name, options in backends.items()},
        'database': _database(settings, 'cinder'),
        'oslo_concurrency': {'lock_path': state / 'lock'},
        'coordination': {'backend_url': f'file://{state}/coordination'},
        'oslo_messaging_rabbit': {'rabbit_quorum_queue': False},
        'oslo_messaging_notifications': {'driver': 'noop'},
        'key_manager': _keys(settings, 'cinder'),
        'keystone_authtoken': _tokens(settings, 'cinder'),
        'nova': _login(settings, 'cinder') | {'interface': 'public'},
        'service_user': _login(settings, 'cinder') | {
            'send_service_user_token': True}}


def _backend(settings: Settings, name: str) -> dict[str, object]:
    return {
        'volume_backend_name': name,
        'volume_driver': 'assisted_snapshots.cinder_driver.nfs.NfsDriver',
        'nfs_shares_config': _shares(settings, name),
        'nfs_mount_point_base': settings.data / 'cinder/mnt',
        'nfs_snapshot_support': True,
        # What was ended on the way to something else is soon cleared away.
        'assisted_recovery_interval': RECOVERY_INTERVAL,
        'nas_secure_file_operations': False,
        'nas_secure_file_permissions': False}


def _shares(settings: Settings, backend: str) -> Path:
    return settings.etc / f'shares-{backend}'


def nova(settings: Settings) -> Sections:
    """Nova's, of the controller."""
    return _nova(settings, CONTROLLER) | {
        'api_database': _database(settings, 'nova_api'),
        'database': _database(settings, 'nova'),
        'conductor': {'workers': 1},
        'scheduler': {'workers': 1, 'discover_hosts_in_cells_interval': 2},
        'wsgi': {'api_paste_config': NOVA_PASTE},
        'api': {'auth_strategy': 'keystone'},
        'keystone_authtoken': _tokens(settings, 'nova')}


def compute(settings: Settings, host: str, inbound: str) -> Sections:
    """Nova's, of a compute host: it has no database."""
    accelerator = guest_image.accelerator(guest_image.build())
    sockets = Path(settings.found[host]).parent
    return _nova(settings, host) | {
        'vnc': {'enabled': False},
        'spice': {'enabled': False},
        'libvirt': {
            'virt_type': 'kvm' if accelerator == 'kvm' else 'qemu',
            'cpu_mode': 'none', 'num_pcie_ports': 6,
            'hw_machine_type': 'x86_64=pc', 'images_type': 'qcow2',
            'nfs_mount_point_base': settings.mounts,
            'connection_uri': _libvirt_uri(settings, host),
            'live_migration_uri': 'qemu+unix:///system?socket='
                                  f'{sockets.parent}/%s/libvirt-sock',
            'live_migration_inbound_addr': inbound,
            'live_migration_permit_post_copy': False},
        'assisted_snapshots': {'job_patience': JOB_PATIENCE},
        'workarounds': {'skip_cpu_compare_on_dest': True}}


def agent(settings: Settings, host: str) -> Sections:
    """The agent's, of a compute host."""
    return {
        'DEFAULT': {'transport_url': settings.found['rabbit'],
                    'debug': True},
        'agent': {'host': host, 'libvirt_uri': _libvirt_uri(settings, host),
                  'state_dir': settings.data / f'{host}/agent'},
        'oslo_messaging_rabbit': {'rabbit_quorum_queue': False}}


def _libvirt_uri(settings: Settings, host: str) -> str:
    return f'qemu+unix:///system?socket={settings.found[host]}'


def _nova(settings: Settings, host: str) -> dict[str, Options]:
    state = settings.data / host
    return {
        'DEFAULT': {
            'host': host, 'my_ip': '127.0.0.1',
            'my_shared_fs_storage_ip': '127.0.0.1',
            'state_path': state, 'debug': True,
            # One folder for all hosts, as live migration wants it.
            'instances_path': settings.data / 'instances',
            'transport_url': settings.found['rabbit'],
            'compute_driver': (
                'assisted.LibvirtDriver' if settings.has_hooks(host)
                else 'libvirt.LibvirtDriver'),
            'rootwrap_config': settings.config('nova-rootwrap'),
            'force_raw_images': False, 'report_interval': 5,
            'service_down_time': 60,
            'sync_power_state_interval': POWER_INTERVAL,
            # The guest does not hear that it is to shut down.
            'shutdown_timeout': 2,
            'graceful_shutdown_timeout': 5, 'manager_shutdown_timeout': 5,
            'resume_guests_state_on_host_boot': False, **settings.nova},
        'oslo_concurrency': {'lock_path': state / 'lock'},
        'oslo_messaging_rabbit': {'rabbit_quorum_queue': False},
        'oslo_messaging_notifications': {'driver': 'noop'},
        'glance': {'region_name': REGION},
        # The hooks report in Nova's own name.
        'cinder': _login(settings, 'nova') | {
            'os_region_name': REGION,
            'catalog_info': 'volumev3::publicURL'},
        'key_manager': _keys(settings, 'nova'),
        'placement': _login(settings, 'placement'),
        'neutron': _login(settings, 'nova'),
        'service_user': _login(settings, 'nova') | {
            'send_service_user_token': True}}


def rootwrap(project: str) -> Sections:
    """The project's own filters, and os-brick's."""
    filters = [INSTALLED / project / 'rootwrap.d',
               INSTALLED / 'os-brick/rootwrap.d']
    folders = [PROGRAMS, VENV / 'bin', '/usr/local/sbin', '/usr/local/bin',
               '/usr/sbin', '/usr/bin', '/sbin', '/bin']
    return {'DEFAULT': {'filters_path': ','.join(map(str, filters)),
                        'exec_dirs': ','.join(map(str, folders)),
                        'use_syslog': False}}


def _database(settings: Settings, name: str) -> Options:
    return {'connection': settings.database(name), 'max_pool_size': 4}


def _keys(settings: Settings, project: str) -> Options:
    """A key manager without Barbican: one key for everything."""
    return {'backend': f'{project}.keymgr.conf_key_mgr.ConfKeyManager',
            'fixed_key': settings.key}


def _login(settings: Settings, user: str) -> dict[str, object]:
    return {'auth_type': 'password', 'auth_url': settings.auth_url,
            'username': user, 'password': PASSWORD,
            'project_name': SERVICE_PROJECT,
            'user_domain_name': 'Default',
            'project_domain_name': 'Default', 'region_name': REGION}


def _tokens(settings: Settings, user: str) -> Options:
    return _login(settings, user) | {
        'www_authenticate_uri': settings.auth_url,
        'service_token_roles': 'service',
        'service_token_roles_required': True}
