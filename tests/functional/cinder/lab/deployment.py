# SPDX-License-Identifier: Apache-2.0
"""Cinder's own global state, pointed at the folder of one test.

Everything is Cinder's: configuration file, database made by its migrations,
lock files of its coordination, key manager, RPC on the in-memory bus.  No
part of it is replaced.  A folder is all that a second process needs to join:
:func:`join` there reads the same cinder.conf.

The folder:

=================  =======================================================
cinder.conf        read by every process; a section per backend
cinder.sqlite      Cinder's database, unless a server has it
shares             what ``nfs_shares_config`` names
share/             the share as its server would have it
mnt/<md5>/         the same folder, bound where os-brick looks for a mount
state/             Cinder's state_path, with lock files and conversion/
=================  =======================================================
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import functools
import hashlib
from pathlib import Path
import sqlite3
import subprocess
import tempfile
import warnings

from cinder import context
from cinder import coordination
from cinder import privsep
from cinder import rpc
from cinder.common import config as _options  # noqa: F401
from cinder.db import api as db_api
from cinder.db import migration
from os_brick import privileged
from oslo_config import cfg
from oslo_db.sqlalchemy import enginefacade

from tests.functional.lab import namespace

CONF = cfg.CONF
EXPORT = '127.0.0.1:/volumes'
#: Hex of what Cinder's key manager gives out; also LUKS's passphrase.
FIXED_KEY = '5ca1ab1e' * 8

_DEFAULTS = '''\
[DEFAULT]
state_path = {folder}/state
image_conversion_dir = {folder}/state/conversion
host = controller
my_ip = 127.0.0.1
transport_url = fake://
auth_strategy = noauth
default_volume_type = __DEFAULT__
enable_v3_api = true
rpc_response_timeout = 15

[database]
connection = {database}

[coordination]
backend_url = file://{folder}/state

[oslo_concurrency]
lock_path = {folder}/state

[key_manager]
backend = cinder.keymgr.conf_key_mgr.ConfKeyManager
fixed_key = {key}

[oslo_messaging_notifications]
driver = noop
'''

#: What every backend starts from: both drivers' snapshots work so.
BACKEND: Mapping[str, object] = {
    'nfs_mount_point_base': '{folder}/mnt',
    'nfs_shares_config': '{folder}/shares',
    'nfs_snapshot_support': True,
    'nas_secure_file_operations': False,
    'nas_secure_file_permissions': False,
    # No thread that outlives its test.
    'assisted_recovery_interval': 0,
}


def mount_point(folder: Path) -> Path:
    """Where os-brick expects the share."""
    digest = hashlib.md5(EXPORT.encode(), usedforsecurity=False)
    return folder / 'mnt' / digest.hexdigest()


def build(folder: Path, bound: bool = True, database: str = '') -> None:
    """Make the folder of a deployment; nothing global is touched.

    :param bound: False where a real share is mounted already.
    :param database: of a server, migrated already; where several processes
        write at once, SQLite does not do.
    """
    for name in ('share', 'state/conversion'):
        (folder / name).mkdir(parents=True)
    (folder / 'cinder.conf').write_text(_DEFAULTS.format(
        folder=folder, key=FIXED_KEY,
        database=database or f'sqlite:///{folder}/cinder.sqlite'))
    (folder / 'shares').write_text(f'{EXPORT}\n')
    if not database:
        (folder / 'cinder.sqlite').write_bytes(_database())
    if bound:
        mount(folder)


def mount(folder: Path) -> None:
    """Bind the share where a driver finds it mounted."""
    namespace.enter()
    mount_point(folder).mkdir(parents=True, exist_ok=True)
    subprocess.run(['mount', '--bind', folder / 'share',
                    mount_point(folder)], check=True)


def unmount(folder: Path) -> None:
    """Undo :func:`mount`."""
    namespace.unmount(mount_point(folder))


def add_backend(folder: Path, name: str, **options: object) -> None:
    """Append a backend's section and have this process read it."""
    lines = [f'{key} = {str(value).format(folder=folder)}' for key, value
             in {**BACKEND, 'volume_backend_name': name, **options}.items()]
    with open(folder / 'cinder.conf', 'a') as file:
        file.write('\n'.join([f'\n[{name}]', *lines, '']))
    if ('config_file' in CONF
            and CONF.config_file == [str(folder / 'cinder.conf')]):
        CONF.reload_config_files()


def join(folder: Path) -> None:
    """Make a deployment the one that this process lives in."""
    # Other rooms' tests may have left the global object to other arguments.
    CONF.reset()
    CONF(['--config-file', str(folder / 'cinder.conf')], project='cinder',
         default_config_files=[])
    privsep.sys_admin_pctxt.set_client_mode(False)
    privileged.default.set_client_mode(False)
    db_api.main_context_manager.patch_factory(
        enginefacade.transaction_context())
    rpc.init(CONF)
    coordination.COORDINATOR.start()


def leave() -> None:
    """End what :func:`join` began."""
    coordination.COORDINATOR.stop()
    rpc.cleanup()
    db_api.main_context_manager.dispose_pool()
    CONF.reset()


def user() -> context.RequestContext:
    """A user, whose project owns what a test makes."""
    return context.RequestContext('user', 'project', is_admin=False,
                                  overwrite=False)


def admin() -> context.RequestContext:
    """An administrator."""
    return context.RequestContext('admin', 'project', is_admin=True,
                                  overwrite=False)


@functools.cache
def _database() -> bytes:
    """An empty database, made once per process by Cinder's migrations."""
    with tempfile.TemporaryDirectory(prefix='cinder-') as folder:
        file = Path(folder, 'cinder.sqlite')
        migrate(f'sqlite:///{file}')
        with contextlib.closing(sqlite3.connect(file)) as connection:
            # Readers do not wait for a writer of another process.
            connection.execute('PRAGMA journal_mode=WAL')
        return file.read_bytes()


def migrate(database: str) -> None:
    """Make an empty database Cinder's, by its migrations."""
    CONF([], project='cinder', default_config_files=[])
    CONF.set_override('connection', database, 'database')
    restore = db_api.main_context_manager.patch_factory(
        enginefacade.transaction_context())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        migration.db_sync()
    db_api.main_context_manager.dispose_pool()
    restore()
    CONF.clear_override('connection', 'database')
    CONF.reset()
