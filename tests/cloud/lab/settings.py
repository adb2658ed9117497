# SPDX-License-Identifier: Apache-2.0
"""Where a cloud's parts are: folders, ports, addresses, passwords.

Written to the cloud's folder, so that another process can talk to a cloud
that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
import functools
import json
from pathlib import Path
import secrets

from tests.functional.lab import paths
from tests.functional.lab import ports

#: The virtual environment of the OpenStack services.
VENV = paths.TMP / 'cloud/venv'
#: Where a cloud lives unless another folder is named.
FOLDER = paths.TMP / 'cloud/up'
PROGRAMS = Path(__file__).parent / 'programs'
#: Everybody's; the cloud listens on loopback only.
PASSWORD = 'cloud'
REGION = 'RegionOne'
HOSTS = ('compute-1', 'compute-2')
#: Cinder's backend, and further ones have other names.
BACKEND = 'nfs'
CONTROLLER = 'controller'
#: Bytes; what aes-xts-plain64 of 256 bits takes.
KEY_SIZE = 32
LISTENERS = ('database', 'keystone', 'placement', 'glance', 'nova',
             'cinder', 'neutron')


@dataclass(frozen=True)
class Settings:
    """One cloud.

    :ivar assisted: whether each compute host has an agent, and its Nova the
        hooks; otherwise Nova is as it is released.
    :ivar eventlet: hosts whose nova-compute runs on eventlet, the others'
        on native threads.
    :ivar released: hosts without agent and hooks where others have them.
    :ivar cinder: options of Cinder's backend; they win over our own.
    :ivar backends: options of further backends, by name; each has a share
        of its own.
    :ivar nova: options of Nova's section DEFAULT, likewise.
    :ivar key: the only key that the key managers of Cinder and Nova have, in
        hexadecimal digits; as an encrypted volume's passphrase it is the
        same digits.
    :ivar found: what became known while it started: addresses of RabbitMQ
        and the libvirtds.
    """

    folder: Path
    ports: Mapping[str, int]
    assisted: bool = True
    eventlet: Sequence[str] = ()
    cinder: Mapping[str, str] = field(default_factory=dict)
    nova: Mapping[str, str] = field(default_factory=dict)
    released: Sequence[str] = ()
    backends: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    key: str = field(default_factory=functools.partial(
        secrets.token_hex, KEY_SIZE), repr=False)
    found: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fresh(cls, folder: Path = FOLDER, *, assisted: bool = True,
              eventlet: Sequence[str] = (),
              cinder: Mapping[str, str] | None = None,
              nova: Mapping[str, str] | None = None,
              released: Sequence[str] = (),
              backends: Mapping[str, Mapping[str, str]] | None = None
              ) -> Settings:
        """Settings of a cloud that is to be started, with free ports."""
        numbers = dict(zip(LISTENERS, ports.free(len(LISTENERS)),
                           strict=True))
        return cls(folder.resolve(), numbers, assisted, eventlet,
                   cinder or {}, nova or {}, released, backends or {})

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Settings of the cloud in this folder."""
        content = json.loads((folder / 'cloud.json').read_text())
        return cls(**content | {'folder': Path(content['folder'])})

    def save(self) -> None:
        """Write them into the folder."""
        content = asdict(self) | {'folder': str(self.folder)}
        (self.folder / 'cloud.json').write_text(json.dumps(content, indent=1))

    def url(self, service: str, path: str = '') -> str:
        """Where a service listens."""
        return f'http://127.0.0.1:{self.ports[service]}{path}'

    @property
    def auth_url(self) -> str:
        """Keystone."""
        return self.url('keystone', '/v3')

    def database(self, name: str) -> str:
        """SQLAlchemy's name of a database."""
        port = self.ports['database']
        return (f'mysql+pymysql://root@127.0.0.1:{port}/{name}'
                '?charset=utf8mb3')

    def has_hooks(self, host: str) -> bool:
        """Whether a compute host has an agent, and its Nova the hooks."""
        return self.assisted and host not in self.released

    @property
    def share(self) -> Path:
        """The exported folder: a file system of its own, as an NFS is."""
        return self.folder / 'share'

    @property
    def shares(self) -> dict[str, Path]:
        """The exported folder of every backend."""
        return {BACKEND: self.share} | {
            name: self.folder / f'share-{name}' for name in self.backends}

    @property
    def data(self) -> Path:
        """State of the services."""
        return self.folder / 'data'

    @property
    def mounts(self) -> Path:
        """Where each compute host mounts shares, in mounts of its own.

        The same on all: libvirt takes the paths of the layers along when it
        migrates a guest.
        """
        return self.data / 'mnt'

    @property
    def log(self) -> Path:
        """One log per service."""
        return self.folder / 'log'

    @property
    def etc(self) -> Path:
        """The services' configuration."""
        return self.folder / 'etc'

    def config(self, name: str) -> Path:
        """A configuration file; Glance looks for one name only."""
        return self.etc / ('glance-api.conf' if name == 'glance'
                           else f'{name}.conf')

    @property
    def credentials(self) -> dict[str, str]:
        """Environment of the command ``openstack`` for the administrator."""
        return {'OS_AUTH_URL': self.auth_url, 'OS_USERNAME': 'admin',
                'OS_PASSWORD': PASSWORD, 'OS_PROJECT_NAME': 'admin',
                'OS_USER_DOMAIN_NAME': 'Default',
                'OS_PROJECT_DOMAIN_NAME': 'Default',
                'OS_REGION_NAME': REGION, 'OS_IDENTITY_API_VERSION': '3',
                'OS_VOLUME_API_VERSION': '3.70',
                'OS_COMPUTE_API_VERSION': '2.96'}
