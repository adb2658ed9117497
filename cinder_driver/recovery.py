# SPDX-License-Identifier: Apache-2.0
"""What a dead cinder-volume has left unfinished, brought to its end.

The same mechanism serves a start after a crash and a cluster of which one
service has died.  It finds chains with an operation in flight and rows whose
status promises work, and takes those that nobody works on: the volume's
lock is free, and the service that had taken the request is dead.  The chain
is finished or undone as repeating the operation would do it; then the rows
are told what the chain says (:mod:`.settling`).

Nothing is ever done to a layer because of a status: those of snapshots can
be set by Nova's users.  This module must never wait for a guest's host
while a service starts, and never take a lock that somebody holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import wait
from pathlib import Path
import threading
from typing import Any
import weakref

from cinder import coordination
from cinder import exception
from cinder import objects
from oslo_log import log as logging

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import Store
from assisted_snapshots.cinder_driver import attachments
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver import guests
from assisted_snapshots.cinder_driver import promises
from assisted_snapshots.cinder_driver import temporary
from assisted_snapshots.cinder_driver import view_sweep
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import native
from assisted_snapshots.cinder_driver.peers import free
from assisted_snapshots.cinder_driver.peers import Peers
from assisted_snapshots.cinder_driver.settling import Settling

LOG = logging.getLogger(__name__)

# Seconds between two looks at what could not be done yet: at first, at last.
_SOON = 0.5
_LATE = 15.0

# Chains that are worked on at the same time.
_AT_ONCE = 4

_JOURNAL = '.journal'
# Metadata that was not written to its end, and never took effect.
_UNWRITTEN = ('.journal.tmp', '.info.tmp')


class Recovery:
    """Finishes and undoes what nobody works on any more.

    ===================  =================================================
    found                then
    ===================  =================================================
    a journal's intent   :meth:`~assisted_snapshots.chain.operations.
                         Operations.recover`; a revert is repeated, because
                         its undoing would look like its success
    that of a deletion   nothing while its manager has not said how it went;
                         then the row is called ``deleting`` before anything
                         is done
    ``creating``         ``available`` if the chain has the snapshot, else
                         ``error``
    ``deleting``         if the chain has no such snapshot, the manager is
                         asked once more for what remains: row and quota.
                         If it has, the delete was never begun: back to
                         ``available``, with a message to the user
    ``extending``        if the chain has grown, that is noted, counted by
                         quota, and told to Nova; else nothing has happened
    ``error_extending``  the same if the chain has grown; else it stays
    ``reverting``        ``available`` if nothing was written since the
                         snapshot, else ``error``
    a temporary          deleted, once the clone that needed it has ended
    snapshot
    a volume of a dead   Cinder's own cleanup, as an operator would ask
    service              for it
    ===================  =================================================

    Every line can be cut short by the next crash and is then found again.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._peers = Peers(backend)
        self._settling = Settling(backend, self._peers)
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._tasks: dict[str, Future[list[str]]] = {}
        self._idle: dict[Path, int] = {}
        self._waiting: set[str] = set()

    def start(self) -> None:
        """Take over what an earlier run has left, and go on besides.

        Returns at once.  Without ``assisted_recovery_interval`` the work
        ends when nothing is left of what was found.
        """
        self._peers.claim()
        interval = float(
            self._backend.configuration.assisted_recovery_interval)
        stop = threading.Event()
        weakref.finalize(self, stop.set)
        threading.Thread(target=_run, args=(weakref.ref(self), interval,
                                            stop),
                         name='recovery', daemon=True).start()

    def sweep(self) -> list[str]:
        """Do all that can be done now.

        :returns: a sentence for each thing done; they are logged, too.
        """
        told = [sentence for task in self.begin()
                for sentence in task.result()]
        return told + self._peers.clean()

    def look(self, seconds: float) -> bool:
        """Begin what can be begun.

        :param seconds: that are given to it, which are mostly enough.
        :returns: True if something is left, which will be tried again.
        """
        swept = self._views_swept()
        try:
            unfinished = wait(self.begin(), timeout=seconds).not_done
            for sentence in self._peers.clean():
                LOG.info('Recovery: %s', sentence)
        except Exception:
            LOG.exception('Nobody can tell now what is unfinished; this is '
                          'tried again.')
            return True
        return bool(unfinished or self._waiting or not swept)

    def _views_swept(self) -> bool:
        """End views that nobody needs; what cannot holds up nothing else."""
        try:
            view_sweep.sweep(self._backend.driver.views)
        except Exception:
            LOG.exception('Raw views cannot be ended now; this is tried '
                          'again.')
            return False
        return True

    def begin(self) -> list[Future[list[str]]]:
        """Begin to tend the volumes that need it; returns their tasks.

        A volume whose guest takes long does not hold up the others, nor
        the next look.
        """
        self._tasks = {volume: task for volume, task in self._tasks.items()
                       if not task.done()}
        needed = self._needed()
        self._waiting &= needed
        for volume_id in needed - self._tasks.keys():
            self._tasks[volume_id] = self._spawn(volume_id)
        return list(self._tasks.values())

    def _needed(self) -> set[str]:
        """Return the ids of volumes that something is left of."""
        found = self._settling.volumes()
        for name in native(lambda: set(self._in_flight())):
            volume = self._volume(name)
            if volume is not None:
                found.add(volume.id)
        return found

    def _in_flight(self) -> Iterator[str]:
        """Yield names of volumes with an operation in flight.

        A journal that has not changed since it was idle is not read again.
        """
        for share in self._backend.driver._mounted_shares:
            folder = self._backend.share_folder(share)
            for end in _UNWRITTEN:
                for path in folder.glob(f'*{end}'):
                    yield path.name.removesuffix(end)
            for path in folder.glob(f'*{_JOURNAL}'):
                try:
                    changed = path.stat().st_mtime_ns
                    if self._idle.get(path) == changed:
                        continue
                    name = path.name.removesuffix(_JOURNAL)
                    if Store(VolumeFiles(path.parent, name)).doing():
                        yield name
                    else:
                        self._idle[path] = changed
                except (OSError, errors.ChainError) as exc:
                    LOG.warning('%s cannot be looked at: %s', path, exc)

    def _volume(self, name: str) -> Any:
        """Return the volume of a name; None if it is not this backend's."""
        context = self._backend.context()
        wanted = name.removeprefix('volume-')
        for filters in ({'id': wanted}, {'_name_id': wanted}):
            for volume in objects.VolumeList.get_all(context,
                                                     filters=filters):
                if volume.name == name and self._peers.owns(volume):
                    return volume
        return None

    def _spawn(self, volume_id: str) -> Future[list[str]]:
        task: Future[list[str]] = Future()
        threading.Thread(target=self._task, args=(task, volume_id),
                         name=f'recovery-{volume_id}', daemon=True).start()
        return task

    def _task(self, task: Future[list[str]], volume_id: str) -> None:
        told: list[str] = []
        with self._slots:
            try:
                told, left = self._tend(volume_id)
                (self._waiting.add if left
                 else self._waiting.discard)(volume_id)
            except exception.VolumeNotFound:
                self._waiting.discard(volume_id)
            except Exception as exc:
                self._waiting.add(volume_id)
                LOG.warning('What is unfinished of volume %s has to wait: '
                            '%s', volume_id, exc,
                            exc_info=not _expected(exc))
        for sentence in told:
            LOG.info('Recovery of volume %s: %s', volume_id, sentence)
        task.set_result(told)

    def _tend(self, volume_id: str) -> tuple[list[str], bool]:
        """Bring one volume to its end, if nobody works on it.

        :returns: what was done, and whether something is left.
        """
        lock = coordination.COORDINATOR.get_lock(
            f'{self._backend.prefix}-{volume_id}')
        if not lock.acquire(blocking=False):
            return [], False
        try:
            volume = self._backend.fresh(objects.Volume(id=volume_id))
            if self._in_hands(volume):
                # It is told after the lock is released, and by that.
                return [], True
            operation, done = self._chain(volume)
            if volume.provider_location:
                done += temporary.sweep(self._backend, volume)
            told, left = self._settling.settle(volume, operation)
            return done + told, left
        finally:
            lock.release()

    def _in_hands(self, volume: Any) -> bool:
        """Tell whether a manager is about to say how a deletion went."""
        if not volume.provider_location:
            return False
        doing = native(Store(self._backend.files(volume)).doing)
        return (doing is not None and doing.kind == 'delete'
                and not free(f'{doing.subject}-delete_snapshot'))

    def _chain(self, volume: Any) -> tuple[Operation | None, list[str]]:
        """Finish or undo the operation in flight; returns it, too."""
        backend = self._backend
        if not volume.provider_location:
            return None, []
        operation = native(Store(backend.files(volume)).doing)
        side = guests.side_for(
            backend, volume,
            snapshot=self._deleted(operation)) if operation else None
        ops = backend.operations(volume, guest=side)
        with promises.ending(backend.context(), operation):
            told = native(ops.recover)
        if operation is None:
            return None, told
        if operation.kind == 'revert':
            native(ops.revert, operation.subject)
            told.append(f'revert to {operation.subject} once more')
        state = native(ops.state)
        backend.note(volume, state)
        attachments.point(backend, volume, state)
        return operation, told

    def _deleted(self, operation: Operation) -> objects.Snapshot | None:
        """Return the snapshot whose deletion its user waits for.

        Only for it may Nova be asked once more.
        """
        if operation.kind != 'delete':
            return None
        try:
            row = objects.Snapshot.get_by_id(self._backend.context(),
                                             operation.subject)
        except exception.SnapshotNotFound:
            return None
        return row if row.status == 'deleting' else None


def _expected(exc: Exception) -> bool:
    return isinstance(exc, (*failures.OURS, exception.CinderException))


def _run(recovery: weakref.ref[Recovery], interval: float,
         stop: threading.Event) -> None:
    """Look again and again; ends with the driver."""
    pause = _SOON
    while True:
        known = recovery()
        if known is None:
            return
        waiting = known.look(pause)
        del known
        if not waiting and not interval:
            return
        pause = min(2 * pause, _LATE) if waiting else _SOON
        if stop.wait(pause if waiting else interval):
            return
