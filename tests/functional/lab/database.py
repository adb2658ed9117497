# SPDX-License-Identifier: Apache-2.0
"""A private MariaDB on loopback, fast rather than durable.

Several processes that write need a server, as in a real cluster: a file of
SQLite refuses whoever has read and then writes while another has written.
"""

from __future__ import annotations

import os
from pathlib import Path
import subprocess

from tests.functional.lab import ports
from tests.functional.lab import waiting

#: The socket's path would be too long; its name is relative to the data.
OPTIONS = ('--no-defaults', '--user=root', '--socket=socket',
           '--bind-address=127.0.0.1', '--skip-log-bin',
           '--performance-schema=OFF', '--innodb-buffer-pool-size=64M',
           '--innodb-flush-log-at-trx-commit=0', '--innodb-doublewrite=0',
           '--max-connections=400')
_START_DEADLINE = 60
#: A server that does not stop within this is killed.
_PATIENCE = 20


class Database:
    """One MariaDB server, which anybody on loopback may use.

    :param folder: of its data; made at the first start.
    :param log: of it and its tools; beside the data by default.
    :ivar port: where it listens.
    """

    def __init__(self, folder: Path, port: int = 0,
                 log: Path | None = None) -> None:
        self.folder = folder
        self.port = port or ports.free(1)[0]
        self.log = log or folder.with_suffix('.log')
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, name: str) -> str:
        """SQLAlchemy's name of a database."""
        return (f'mysql+pymysql://root@127.0.0.1:{self.port}/{name}'
                '?charset=utf8mb3')

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        if not self.folder.exists():
            self._install()
        with open(self.log, 'ab') as log:
            self._process = subprocess.Popen(
                ['mariadbd', *OPTIONS, f'--datadir={self.folder}',
                 f'--port={self.port}', f'--pid-file={self.folder}/pid'],
                env=self._environment(), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True)
        waiting.until(self._answers, 'MariaDB answering', _START_DEADLINE)

    def stop(self) -> None:
        """End it; its data stay."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def create(self, name: str) -> None:
        """Make an empty database, unless there is one of this name."""
        self._client('mariadb', '--execute',
                     f'CREATE DATABASE IF NOT EXISTS {name} '
                     'CHARACTER SET utf8mb3')

    def drop(self, name: str) -> None:
        """Remove a database."""
        self._client('mariadb', '--execute', f'DROP DATABASE {name}')

    def dump(self, name: str) -> bytes:
        """Everything in a database, for :meth:`load`."""
        return self._client('mariadb-dump', name)

    def load(self, name: str, content: bytes) -> None:
        """Fill an empty database."""
        self._client('mariadb', name, content=content)

    def _client(self, tool: str, *arguments: str,
                content: bytes = b'') -> bytes:
        with open(self.log, 'ab') as log:
            return subprocess.run(
                [tool, '--no-defaults', '--protocol=tcp', '--user=root',
                 '--host=127.0.0.1', f'--port={self.port}', *arguments],
                env=self._environment(), input=content, check=True,
                stdout=subprocess.PIPE, stderr=log).stdout

    def _install(self) -> None:
        with open(self.log, 'ab') as log:
            subprocess.run(
                ['mariadb-install-db', '--no-defaults', '--user=root',
                 f'--datadir={self.folder}', '--skip-test-db',
                 '--auth-root-authentication-method=normal'],
                env=self._environment(), stdout=log, stderr=log, check=True)

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            'PATH': f'{os.environ["PATH"]}:/usr/sbin:/sbin'}

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(
                'MariaDB ended: '
                + self.log.read_text(errors='replace')[-1000:])
        return ports.open_(self.port)
