# SPDX-License-Identifier: Apache-2.0
"""A private RabbitMQ: own node, own cookie, own port mapper, on loopback.

Ports and data stay the same over a restart, so clients may reconnect.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
import tempfile

from tests.functional.lab import ports
from tests.functional.lab import waiting

BIN = Path('/usr/lib/rabbitmq/bin')
#: Schedulers that do not spin, few of them: the machine is shared.
VM_FLAGS = '-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none'
START_DEADLINE = 90


class Rabbit:
    """One RabbitMQ server.

    :ivar url: for ``transport_url``.
    :ivar log: folder of its logs.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix='lab-rabbit-'))
        self._port, self._distribution, self._mapper = ports.free(3)
        self.url = f'rabbit://guest:guest@127.0.0.1:{self._port}/'
        self.log = self.root / 'log'
        self._process: subprocess.Popen[bytes] | None = None
        for name in ('data', 'log', 'home'):
            (self.root / name).mkdir()
        (self.root / 'plugins').write_text('[].\n')

    @property
    def running(self) -> bool:
        """Whether the server is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with open(self.log / 'server.out', 'ab') as output:
            self._process = subprocess.Popen(
                [BIN / 'rabbitmq-server'], env=self._environment(),
                stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                start_new_session=True)
        waiting.until(self._answers, 'RabbitMQ answering', START_DEADLINE)

    def stop(self) -> None:
        """End it, its port mapper and its data."""
        self.terminate()
        subprocess.run(['epmd', '-port', str(self._mapper), '-kill'],
                       check=False, capture_output=True,
                       env=self._environment())
        shutil.rmtree(self.root)

    def terminate(self) -> None:
        """End it cleanly; its data stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL it; its data stay."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it cleanly and start it again."""
        self.terminate()
        self.start()

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl``; what it printed."""
        return subprocess.run(
            [BIN / 'rabbitmqctl', *arguments], env=self._environment(),
            check=True, capture_output=True, text=True).stdout

    def _environment(self) -> dict[str, str]:
        root = self.root
        return os.environ | {
            'HOME': f'{root}/home',
            'RABBITMQ_NODENAME': f'lab{self._port}@localhost',
            'RABBITMQ_NODE_PORT': str(self._port),
            'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1',
            'RABBITMQ_DIST_PORT': str(self._distribution),
            'RABBITMQ_MNESIA_BASE': f'{root}/data',
            'RABBITMQ_LOG_BASE': f'{root}/log',
            'RABBITMQ_PID_FILE': f'{root}/pid',
            'RABBITMQ_ENABLED_PLUGINS_FILE': f'{root}/plugins',
            'RABBITMQ_CONFIG_FILE': f'{root}/none',
            'RABBITMQ_CONF_ENV_FILE': '/dev/null',
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': VM_FLAGS,
            'ERL_EPMD_PORT': str(self._mapper),
            'ERL_EPMD_ADDRESS': '127.0.0.1'}

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(
                'RabbitMQ ended: '
                + (self.log / 'server.out').read_text()[-1000:])
        return ports.open_(self._port)

    def _end(self, number: signal.Signals) -> None:
        """Signal the server itself, not the script around it."""
        if self._process is not None:
            os.kill(int((self.root / 'pid').read_text()), number)
            self._process.wait()
            self._process = None
