# SPDX-License-Identifier: Apache-2.0
"""What is remembered of a raw view, so that somebody ends it.

A record lies where the view is: on this host for a FUSE export, on the
share for a staged file.  It is written before the view is begun and removed
after the view has gone, so a view without a record cannot last.  This module
must never decide whether a view is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace
import json
import os
from pathlib import Path
from typing import Any

from oslo_log import log as logging

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.header import read_at
from assisted_snapshots.chain.store import sync_folder

LOG = logging.getLogger(__name__)

#: Steps of a view: being made; in use; all written and to be copied into
#: the volume.
MAKING = 'making'
OPEN = 'open'
DELIVER = 'deliver'

_MODE = 0o660
_MAX = 1 << 16


class BadRecord(errors.ChainError):
    """A record of a view cannot be read."""

    message = '{file}: {reason}; the view it tells of is ended'


@dataclass(frozen=True, slots=True)
class Record:
    """A view and who uses it.

    :ivar volume_id: of whose volume.
    :ivar snapshot_id: of which snapshot, None for the volume itself.
    :ivar writable: what is written to it becomes the volume's content.
    :ivar layers: names of the layers it shows, base first.
    :ivar users: how many have opened and not closed it.
    :ivar step: how far it is.
    """

    volume_id: str
    snapshot_id: str | None
    writable: bool
    layers: tuple[str, ...]
    users: int = 1
    step: str = MAKING

    def shows(self, other: Record) -> bool:
        """Tell whether two are views of the same."""
        return replace(self, users=0, step='') == replace(
            other, users=0, step='')


def load(path: Path) -> Record | None:
    """Return a record, None if there is none.

    :raises BadRecord: it is not one.
    """
    try:
        with open_layer(path) as fd:
            size = min(os.fstat(fd).st_size, _MAX)
            return _record(json.loads(read_at(fd, path, 0, size)))
    except errors.MissingLayer:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadRecord(file=path, reason=repr(exc)) from exc


def readable(read: Callable[[], Record | None]) -> Record | None:
    """Return a record that somebody reads, None if it is none.

    For whoever ends views: what nobody can read, nobody can use.
    """
    try:
        return read()
    except BadRecord as exc:
        LOG.warning('%s', exc)
        return None


def save(path: Path, record: Record) -> None:
    """Replace a record, all of it or nothing."""
    aside = path.with_name(path.name + '.tmp')
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL
                 | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    with os.fdopen(fd, 'wb') as file:
        file.write(json.dumps(asdict(record), indent=1).encode())
        file.flush()
        os.fsync(fd)
    aside.rename(path)
    sync_folder(path.parent)


def _record(found: dict[str, Any]) -> Record:
    snapshot = found['snapshot_id']
    return Record(
        str(found['volume_id']), None if snapshot is None else str(snapshot),
        bool(found['writable']),
        tuple(str(name) for name in found['layers']),
        int(found['users']), str(found['step']))
