# SPDX-License-Identifier: Apache-2.0
"""Who was asked to change a disk, until it is known what became of it.

Two parties must never be asked for the same merge, or extension: the second
could refuse what the first is still to begin, and the intent would be
dropped under it.  So it is written down before the question, in the volume's
admin metadata, where no user can write.  Killed before that, nobody was
asked; killed later, whoever carries it on asks the same party again.
"""

from __future__ import annotations

from cinder import objects
from cinder.db import api as db

from assisted_snapshots.chain.store import Store
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import home
from assisted_snapshots.cinder_driver.native import native

#: Key of the admin metadata.
KEY = 'assisted_snapshots:asked'

AGENT = 'agent'
NOVA = 'nova'


def note(backend: Backend, volume: objects.Volume, party: str,
         subject: str) -> None:
    """Write down who will be asked for an operation."""
    home(lambda: db.volume_admin_metadata_update(
        backend.context(), volume.id, {KEY: f'{party} {subject}'}, False))


def forget(backend: Backend, volume: objects.Volume) -> None:
    """Say that it is known what became of it."""
    home(lambda: db.volume_admin_metadata_delete(backend.context(),
                                                 volume.id, KEY))


def was_asked(backend: Backend, volume: objects.Volume, party: str,
              subject: str) -> bool:
    """Tell whether a party was asked, and may still do it."""
    found = home(lambda: db.volume_admin_metadata_get(backend.context(),
                                                      volume.id))
    return bool(found.get(KEY) == f'{party} {subject}')


def by(backend: Backend, volume: objects.Volume) -> str:
    """Return who was asked for the operation in flight; empty if nobody."""
    doing = native(Store(backend.files(volume)).doing)
    if doing is None or not doing.attached:
        return ''
    return next((party for party in (AGENT, NOVA)
                 if was_asked(backend, volume, party, doing.subject)), '')
