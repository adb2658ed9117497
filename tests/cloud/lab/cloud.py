# SPDX-License-Identifier: Apache-2.0
"""Starts a cloud in the right order, and ends all of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
import contextlib
from pathlib import Path
import shutil
import tempfile
import time

from tests.cloud.lab import config
from tests.cloud.lab import identity
from tests.cloud.lab import install
from tests.cloud.lab import process
from tests.cloud.lab import schema
from tests.cloud.lab.api import Api
from tests.cloud.lab.api import ConnectFailure
from tests.cloud.lab.api import HttpError
from tests.cloud.lab.database import Database
from tests.cloud.lab.hosts import ComputeHost
from tests.cloud.lab.process import Process
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import PROGRAMS
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.settings import VENV
from tests.functional.lab import guest_image
from tests.functional.lab import namespace
from tests.functional.lab import ports
from tests.functional.lab import share
from tests.functional.lab import waiting
from tests.functional.lab.rabbit import Rabbit

SHARE_SIZE = 20 * share.GIB
READY_DEADLINE = 180
#: Name -> module that holds the application.
APIS = {'keystone': 'keystone.wsgi.api', 'placement': 'placement.wsgi.api',
        'glance': 'glance.wsgi.api', 'nova': 'nova.wsgi.osapi_compute',
        'cinder': 'cinder.wsgi.api'}
WORKERS = {'nova-conductor': 'nova', 'nova-scheduler': 'nova',
           'cinder-scheduler': 'cinder', 'cinder-volume': 'cinder',
           'cinder-backup': 'cinder'}


class Cloud:
    """One cloud, whose processes are this process's children.

    :ivar services: by name; a test may kill and start them.
    :ivar hosts: by name.
    """

    def __init__(self, settings: Settings,
                 say: Callable[[str], object] = lambda _: None) -> None:
        self.settings = settings
        self.services: dict[str, Process] = {}
        self.hosts: dict[str, ComputeHost] = {}
        self.rabbit: Rabbit | None = None
        self.database = Database(settings)
        self.api = Api(settings)
        self._say = say
        self._begun = time.monotonic()
        self._stack = contextlib.ExitStack()

    def up(self) -> None:
        """Start everything; returns when servers can be made.

        Whatever an earlier cloud left in the folder is cleared first.
        """
        assert namespace.privileged(), 'a cloud needs root'
        try:
            self._up()
        except BaseException:
            self._end()
            raise

    def down(self) -> None:
        """End everything; nothing is left but the folder's logs."""
        self._end()
        for name in ('data', 'etc', 'cloud.json'):
            _remove(self.settings.folder / name)
        for place in self.settings.shares.values():
            _remove(place)
            _remove(_image(place))

    def _up(self) -> None:
        install.ensure()
        self._stage('installed')
        self._prepare()
        self._infrastructure()
        self._stage('MariaDB, RabbitMQ and libvirt run')
        config.write_all(self.settings, {
            host.name: host.inbound for host in self.hosts.values()})
        self.settings.save()
        schema.create(self.settings)
        self._stage('databases are filled')
        self._start_apis()
        self._stage('the interfaces answer')
        self._start_workers()
        self.wait_ready()
        self._stage('ready')

    def wait_ready(self) -> None:
        """Wait until every service has said that it is up."""
        waiting.until(self._ready, 'all services being up', READY_DEADLINE,
                      0.5)

    def start(self, name: str) -> None:
        """Start a service, also one that has ended."""
        self.services[name].start()

    def _prepare(self) -> None:
        settings = self.settings
        process.clear(settings.folder)
        _remove(settings.folder)
        states = [settings.data / name for name in (*HOSTS, 'instances')]
        shares = settings.shares.values()
        for folder in (*states, settings.log, settings.etc, *shares):
            folder.mkdir(parents=True)
        guest_image.build()
        self._stack.callback(_unmount, settings.folder)
        self._stack.callback(process.clear, settings.folder)
        for place in shares:
            image = _image(place)
            share.make_ext4(image, SHARE_SIZE)
            namespace.mount_image(image, place)
            place.chmod(0o777)

    def _infrastructure(self) -> None:
        settings = self.settings
        sockets = Path(tempfile.mkdtemp(prefix='lab-cloud-'))
        self._stack.callback(shutil.rmtree, sockets)
        rabbit = self.rabbit = _Rabbit(settings)
        self._stack.callback(rabbit.stop)
        self._stack.callback(self.database.stop)
        for number, name in enumerate(HOSTS):
            host = ComputeHost(settings, name, f'127.0.0.{number + 2}',
                               sockets)
            self.hosts[name] = host
            settings.found[name] = str(host.socket)
            self._stack.callback(host.stop)
        with futures.ThreadPoolExecutor() as pool:
            starts = [rabbit.start, self.database.start,
                      *(host.start for host in self.hosts.values())]
            for started in [pool.submit(start) for start in starts]:
                started.result()
        settings.found['rabbit'] = rabbit.url

    def _start_apis(self) -> None:
        self._serve('keystone')
        self._answers('keystone')
        # Whoever logs in before has a catalogue with nothing in it.
        identity.populate(self.settings, Api(self.settings))
        self._service('neutron', [VENV / 'bin/python',
                                  PROGRAMS / 'neutron.py',
                                  self.settings.ports['neutron']])
        for name in APIS:
            if name != 'keystone':
                self._serve(name)
        for name in APIS:
            self._answers(name)

    def _serve(self, name: str) -> None:
        """Start a service's interface, its configuration named to it."""
        self._service(
            name, [VENV / 'bin/python', PROGRAMS / 'serve.py', APIS[name],
                   self.settings.ports[name], '--config-file',
                   self.settings.config(name)],
            **_configured(self.settings, name))

    def _start_workers(self) -> None:
        for name, project in WORKERS.items():
            self._service(name, [name, '--config-file',
                                 self.settings.config(project)])
        for host in self.hosts.values():
            host.start_services()

    def _service(self, name: str, command: list[object],
                 **variables: str) -> None:
        service = Process(self.settings, name, [str(c) for c in command],
                          variables=variables)
        self.services[name] = service
        self._stack.callback(service.stop)
        service.start()

    def _answers(self, name: str) -> None:
        service = self.services[name]
        waiting.until(lambda: service.alive() and ports.open_(
            self.settings.ports[name]), f'{name} answering', 120)

    def _ready(self) -> bool:
        for service in self.services.values():
            service.alive()
        for host in self.hosts.values():
            for service in host.services:
                service.alive()
        try:
            return self._reported() and self._discovered()
        except (ConnectFailure, HttpError):
            return False

    def _reported(self) -> bool:
        expected = (
            (self.api.compute, 'nova-compute', len(HOSTS)),
            (self.api.volume, 'cinder-volume', len(self.settings.shares)),
            (self.api.volume, 'cinder-backup', 1))
        for service, binary, count in expected:
            found = service.get(f'/os-services?binary={binary}')['services']
            if [one['state'] for one in found] != ['up'] * count:
                return False
        return True

    def _discovered(self) -> bool:
        found = self.api.compute.get('/os-hypervisors')['hypervisors']
        return len(found) == len(HOSTS)

    def _stage(self, what: str) -> None:
        self._say(f'{time.monotonic() - self._begun:6.1f} s  {what}')

    def _end(self) -> None:
        """Ask all to stop at once, then wait for each in turn."""
        for service in self.services.values():
            service.ask_to_stop()
        for host in self.hosts.values():
            for service in host.services:
                service.ask_to_stop()
        self._stack.close()


class _Rabbit(Rabbit):
    """The laboratory's RabbitMQ, marked as this cloud's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def _environment(self) -> dict[str, str]:
        return process.environment(self._settings, **super()._environment())


def _configured(settings: Settings, name: str) -> dict[str, str]:
    """Where an interface looks for its files before it reads arguments."""
    files = [settings.config(name)]
    if name == 'nova':
        files.insert(0, config.NOVA_PASTE)
    return {f'OS_{name.upper()}_CONFIG_DIR': str(settings.etc),
            f'OS_{name.upper()}_CONFIG_FILES': ';'.join(map(str, files))}


def _image(share_: Path) -> Path:
    """The file system of a share."""
    return share_.with_name(f'{share_.name}.image')


def _unmount(folder: Path) -> None:
    """Unmount what is mounted in the folder, Cinder's mounts too."""
    lines = Path('/proc/self/mountinfo').read_text().splitlines()
    for place in reversed([Path(line.split()[4]) for line in lines]):
        if place.is_relative_to(folder):
            namespace.unmount(place)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
