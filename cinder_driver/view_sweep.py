# SPDX-License-Identifier: Apache-2.0
"""The end of raw views that nobody closes.

Who connected may have been killed, or this service between two steps.  A
view is ended when the database says that nobody can need it, or when it is
dead; a restart of cinder-volume alone leaves a running backup its view.
This module must never end what is still used, and never wait for a
volume's lock, which it holds while it looks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cinder import coordination
from cinder import exception
from cinder import objects
from oslo_log import log as logging

from assisted_snapshots.cinder_driver import exported
from assisted_snapshots.cinder_driver import storage_daemon
from assisted_snapshots.cinder_driver import view_needs
from assisted_snapshots.cinder_driver import view_records
from assisted_snapshots.cinder_driver.native import native
from assisted_snapshots.cinder_driver.staged import RECORD
from assisted_snapshots.cinder_driver.staged import view_of
from assisted_snapshots.cinder_driver.view_records import readable
from assisted_snapshots.cinder_driver.view_records import Record
from assisted_snapshots.cinder_driver.views import Views

LOG = logging.getLogger(__name__)


def sweep(views: Views) -> None:
    """End what nobody needs, finish what was cut short.

    At start and from time to time; skips volumes that are locked.
    """
    for name in list(exported.subjects(views.folder)):
        view = views.exported(name)
        found = readable(view.record)
        if found is None:
            native(view.end)
        else:
            _with_volume(views, found, _Export(views, view, found))
    for share in views.backend.driver.shares:
        folder = views.backend.share_folder(share)
        for path in sorted(folder.glob(f'*{RECORD}')):
            found = readable(partial(view_records.load, path))
            if found is not None:
                _with_volume(views, found, _File(views, path, found))


class _Export:
    """A look at one FUSE export, its volume locked."""

    def __init__(self, views: Views, view: exported.Exported,
                 found: Record) -> None:
        self._views = views
        self._view = view
        self._found = found

    def __call__(self, volume: objects.Volume | None) -> None:
        if (volume is not None and storage_daemon.alive(self._view.mount)
                and view_needs.needed(self._views.backend.context(), volume,
                                      self._found.snapshot_id)):
            return
        LOG.warning('Raw view %s is not needed any more.', self._view.mount)
        native(self._view.end)


class _File:
    """A look at one staged view, its volume locked."""

    def __init__(self, views: Views, path: Path, found: Record) -> None:
        self._views = views
        self._path = path
        self._found = found

    def __call__(self, volume: objects.Volume | None) -> None:
        if volume is not None:
            self._views.settle(volume)
            if not self._path.exists() or view_needs.needed(
                    self._views.backend.context(), volume,
                    self._found.snapshot_id):
                return
        LOG.warning('Raw view %s is not needed any more.', self._path)
        view_of(self._path).unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)


def _with_volume(views: Views, found: Record,
                 look: Callable[[objects.Volume | None], None]) -> None:
    """Look at a view with its volume locked; None if that is gone.

    Who holds the lock looks after the volume's views, or the next look does.
    """
    backend = views.backend
    lock = coordination.COORDINATOR.get_lock(
        f'{backend.prefix}-{found.volume_id}')
    if not lock.acquire(blocking=False):
        return
    try:
        look(objects.Volume.get_by_id(backend.context(), found.volume_id))
    except exception.VolumeNotFound:
        look(None)
    except Exception:
        LOG.exception('A raw view of volume %s cannot be ended now.',
                      found.volume_id)
    finally:
        lock.release()
