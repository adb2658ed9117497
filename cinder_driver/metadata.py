# SPDX-License-Identifier: Apache-2.0
"""Formats: Cinder's admin metadata and what is pinned for the chain.

Cinder's ``format`` is that of the active layer, ``base_format`` that of the
base, as upstream keeps them.  The journal on the share is older than both
after a crash and newer than neither, so it wins where the two can be
explained by one; else nothing is believed.  A format must never be guessed
from what a guest can write: only the absence of a qcow2 header proves
something, and in an encrypted volume, where guests write no plain text, its
presence does too.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path

from cinder import context as cinder_context
from cinder import objects
from cinder.db import api as db

from assisted_snapshots.chain.errors import BadInfo
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.store import Store
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState

FORMAT = 'format'
BASE_FORMAT = 'base_format'

_MAGIC = b'QFI\xfb'


def recorded(volume: objects.Volume) -> dict[str, str]:
    """Return what Cinder has recorded of a volume's formats."""
    with volume.obj_as_admin():
        found = volume.admin_metadata
    return {key: found[key] for key in (FORMAT, BASE_FORMAT) if key in found}


def pins(files: VolumeFiles, known: Mapping[str, str],
         encrypted: bool) -> dict[str, Format]:
    """Return the format of the base layer, if it must be said at all.

    Headers pin all other layers, and a layer with a snapshot's name is
    always qcow2.

    :param known: what Cinder has recorded.
    :param encrypted: the volume is LUKS, so its header can be believed.
    """
    if not files.base.exists():
        return {}
    journal = Store(files).read_journal()
    pinned = journal.layers.get(files.name) if journal else None
    said: Format | None
    if encrypted:
        said = _by_header(files.base, encrypted)
    elif pinned is not None:
        said = judge(known, pinned.format)
    else:
        said = (_by_header(files.base, encrypted)
                or base_format(known, _has_overlays(files)))
    return {} if said is None else {files.name: said}


def judge(known: Mapping[str, str], pinned: Format) -> Format:
    """Return which of journal and records to believe.

    The journal is right if any record agrees, because a crash leaves the
    other one behind.  If none does, the answer is the record, and the chain
    room refuses to work with the two.
    """
    if not known or str(pinned) in known.values():
        return pinned
    return Format(known.get(BASE_FORMAT) or known[FORMAT])


def base_format(known: Mapping[str, str],
                has_overlays: bool) -> Format | None:
    """Return the recorded format of the base layer.

    :param has_overlays: ``format`` is that of an overlay.
    """
    if BASE_FORMAT in known:
        return Format(known[BASE_FORMAT])
    if FORMAT in known and not has_overlays:
        return Format(known[FORMAT])
    return None


def changes(known: Mapping[str, str], state: VolumeState) -> dict[str, str]:
    """Return what has to be recorded for a chain as it is now.

    As upstream does, ``base_format`` appears with the first snapshot.
    """
    wanted = {FORMAT: str(state.chain.active.format)}
    if state.snapshots or BASE_FORMAT in known:
        wanted[BASE_FORMAT] = str(state.chain.base.format)
    return {key: value for key, value in wanted.items()
            if known.get(key) != value}


def note(context: cinder_context.RequestContext, volume: objects.Volume,
         state: VolumeState) -> None:
    """Bring the records in step with the chain."""
    record(context, volume, changes(recorded(volume), state))


def record(context: cinder_context.RequestContext, volume: objects.Volume,
           wanted: Mapping[str, str]) -> None:
    """Write records, into the database and into the object given."""
    if not wanted:
        return
    found = db.volume_admin_metadata_update(context, volume.id,
                                            dict(wanted), False)
    if volume.obj_attr_is_set('admin_metadata'):
        volume.admin_metadata = found
        volume.obj_reset_changes(['admin_metadata'])


def _has_overlays(files: VolumeFiles) -> bool:
    """Tell whether the active layer is another file than the base."""
    try:
        info = Store(files).read_info()
    except BadInfo:
        return True
    return info is not None and info['active'] != files.name


def _by_header(path: Path, encrypted: bool) -> Format | None:
    """Return what the header proves; None where it could be a guest's."""
    with open_layer(path) as fd:
        is_qcow2 = os.pread(fd, len(_MAGIC), 0) == _MAGIC
    if not is_qcow2:
        return Format.RAW
    return Format.QCOW2 if encrypted else None
