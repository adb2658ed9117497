# SPDX-License-Identifier: Apache-2.0
"""cinder-volume in a process of its own, to be killed there.

Processes are forked from one that has imported everything and done nothing,
so that each costs a fraction of a second.  A process joins the deployment
of a folder, as a service that starts does; what it leaves when it is killed
is what the next one finds.

A kill comes in front of an effect: a change to a name or a file on the
share, a tool that is started, a commit to the database.  Effects are seen
by Python's audit events, so a step that is added to the product is walked
by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import functools
import multiprocessing
from multiprocessing.connection import Connection
import os
from pathlib import Path
import signal
import sys
import threading
import time
import traceback
from typing import Any

from cinder import objects
from cinder import rpc
from cinder import service
from cinder.db import api as db_api
from cinder.objects import base as objects_base
from cinder.volume import manager as volume_manager
import oslo_messaging as messaging
from sqlalchemy import event
from sqlalchemy import orm

from tests.functional.cinder.lab import deployment
from tests.functional.cinder.lab.world import HOST
from tests.functional.cinder.lab.world import OURS
from tests.functional.cinder.lab.world import World

# Done once, not in every process.
orm.configure_mappers()

#: The backend's section, made once with the deployment.
SECTION = 'nfs'

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ('os.remove', 'os.rename', 'os.truncate', 'os.chmod', 'os.link')


class Joined(World):
    """The world of a folder that another process has built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.share = folder / 'share'
        self._sections = {SECTION}
        deployment.join(folder)
        self.context = deployment.user()
        self.admin = deployment.admin()

    def close(self) -> None:
        """End it; share and mounts stay."""
        deployment.leave()

    def serve(self) -> Any:
        """Start what cinder-volume is made of; its manager.

        A service that was there before is the same one, started again.
        """
        found = objects.ServiceList.get_all(
            self.admin, {'host': HOST, 'binary': 'cinder-volume'})
        known = next(iter(found), None) or objects.Service(
            self.admin, host=HOST, binary='cinder-volume',
            topic='cinder-volume', availability_zone='nova', report_count=1,
            rpc_current_version=volume_manager.VolumeManager.RPC_API_VERSION,
            object_current_version=objects_base.OBJ_VERSIONS.get_current())
        if 'id' not in known:
            known.create()
        service.Service.service_id = known.id
        manager = volume_manager.VolumeManager(
            volume_driver=OURS, host=HOST, service_name=SECTION)
        manager.init_host(service_id=known.id)
        assert manager.driver.initialized
        for topic, server in (('cinder-volume', HOST),
                              (f'cinder-volume.{HOST}',
                               HOST.split('@')[0])):
            rpc.get_server(
                messaging.Target(topic=topic, server=server), [manager],
                objects_base.CinderObjectSerializer()).start()
        return manager


class Effects:
    """Counts the effects of a process, and kills it in front of one."""

    def __init__(self, share: Path) -> None:
        self._share = str(share.resolve())
        self.seen: list[str] = []
        self._armed = False
        self._at = -1
        sys.addaudithook(self._audit)
        event.listen(
            db_api.main_context_manager.writer.get_engine(), 'commit',
            lambda _connection: self.happens('commit'))

    @contextmanager
    def armed(self, at: int = -1) -> Iterator[None]:
        """Watch what happens meanwhile, and kill in front of one effect."""
        self._armed, self._at = True, at
        try:
            yield
        finally:
            self._armed = False

    def _audit(self, name: str, args: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        if name == 'subprocess.Popen':
            self.happens(f'run {" ".join(map(str, args[1]))}')
        elif (name in _CHANGES and self._mine(args[0])
                and os.path.lexists(args[0])):
            self.happens(f'{name} {args[0]}')
        elif name == 'open' and self._mine(args[0]) \
                and args[2] & _WRITES and not str(args[0]).endswith('.lock'):
            self.happens(f'write {args[0]}')

    def _mine(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.realpath(
            os.fspath(path)).startswith((self._share, self._mount))

    @functools.cached_property
    def _mount(self) -> str:
        return str(Path(self._share).parent / 'mnt')

    def happens(self, what: str) -> None:
        if not self._armed:
            return
        self.seen.append(what)
        if len(self.seen) - 1 == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


@functools.cache
def _context() -> Any:
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([
        __name__, 'assisted_snapshots.cinder_driver.nfs',
        'tests.functional.cinder.lab.process'])
    return context


def run(work: Callable[..., Any], folder: Path, *args: Any,
        seconds: float = 60) -> Any:
    """Do something in a process of its own; what it returned.

    :returns: None if the process was killed.
    """
    reader, writer = _context().Pipe(duplex=False)
    process = _context().Process(target=_child,
                                 args=(writer, work, folder, *args))
    process.start()
    writer.close()
    try:
        kind, value = (reader.recv() if reader.poll(seconds)
                       else ('raised', 'it took too long'))
    except EOFError:
        process.join()
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        return None
    finally:
        reader.close()
    process.kill()
    process.join()
    assert kind == 'returned', value
    return value


def _child(writer: Connection, work: Callable[..., Any], folder: Path,
           *args: Any) -> None:
    try:
        world = Joined(folder)
        answer = ('returned', work(world, *args))
    except BaseException:
        answer = ('raised', traceback.format_exc())
    writer.send(answer)
    writer.close()
    # It is killed now, like everything here.
    time.sleep(3600)


def quiet(seconds: float = 30) -> None:
    """Wait until the recovery of this process has ended."""
    limit = time.monotonic() + seconds
    while any(thread.name.startswith('recovery')
              for thread in threading.enumerate()):
        assert time.monotonic() < limit, 'the recovery does not end'
        time.sleep(0.02)
