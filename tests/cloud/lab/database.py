# SPDX-License-Identifier: Apache-2.0
"""A private MariaDB on loopback, fast rather than durable."""

from __future__ import annotations

from collections.abc import Sequence
import subprocess

from tests.cloud.lab.process import environment
from tests.cloud.lab.process import Process
from tests.cloud.lab.settings import Settings
from tests.functional.lab import ports
from tests.functional.lab import waiting

DATABASES = ('keystone', 'placement', 'glance', 'nova_api', 'nova',
             'nova_cell0', 'cinder')
#: The socket's path would be too long; its name is relative to the data.
OPTIONS = ('--no-defaults', '--user=root', '--socket=socket',
           '--bind-address=127.0.0.1', '--skip-log-bin',
           '--performance-schema=OFF', '--innodb-buffer-pool-size=64M',
           '--innodb-flush-log-at-trx-commit=0', '--innodb-doublewrite=0',
           '--max-connections=400')


class Database(Process):
    """The MariaDB of a cloud, with empty databases at first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.data / 'database'
        self._port = settings.ports['database']
        super().__init__(settings, 'mariadb', [
            'mariadbd', *OPTIONS, f'--datadir={self._folder}',
            f'--port={self._port}', f'--init-file={self._folder}/first.sql',
            f'--pid-file={self._folder}/pid'])

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        if not self._folder.exists():
            self._create()
        super().start()
        waiting.until(lambda: self.alive() and ports.open_(self._port),
                      'MariaDB answering', 60)

    def _create(self) -> None:
        log = self._settings.log / 'mariadb-install.log'
        with open(log, 'wb') as output:
            subprocess.run(
                ['mariadb-install-db', '--no-defaults', '--user=root',
                 f'--datadir={self._folder}', '--skip-test-db',
                 '--auth-root-authentication-method=normal'],
                env=environment(self._settings), stdout=output,
                stderr=output, check=True)
        (self._folder / 'first.sql').write_text(_statements(DATABASES))


def _statements(names: Sequence[str]) -> str:
    return ''.join(f'CREATE DATABASE IF NOT EXISTS {name} '
                   'CHARACTER SET utf8mb3;\n' for name in names)
