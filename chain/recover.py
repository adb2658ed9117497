# SPDX-License-Identifier: Apache-2.0
"""After a crash: finish or undo what was begun, and mend .info.

What is done is exactly what repeating the operation would do.  This module
must never choose between two stories: where the headers do not decide, it
stops, says so, and keeps every file.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import os
from pathlib import Path

from assisted_snapshots.chain import bare
from assisted_snapshots.chain import copies
from assisted_snapshots.chain import errors
from assisted_snapshots.chain import growth
from assisted_snapshots.chain import merging
from assisted_snapshots.chain import names
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain import snapshots
from assisted_snapshots.chain.reader import read_chain
from assisted_snapshots.chain.reader import read_layers
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.chain.volume import Volume


def recover(volume: Volume, dry_run: bool = False) -> list[str]:
    """Bring a volume into order; returns what was or would be done.

    :raises Disagreement: the files do not say what is right.
    """
    told = []
    operation = volume.journal().operation
    if operation:
        told.append(_describe(operation))
        if not dry_run:
            resume(volume, operation)
    for path in leftovers(volume):
        told.append(f'remove the temporary file {path.name}')
        if not dry_run:
            volume.remove(path)
    if not (operation and dry_run):
        told += _mend_info(volume, dry_run)
    return told


def resume(volume: Volume, operation: Operation) -> str | None:
    """Finish or undo an operation; what ``carry_on`` said if finished."""
    if operation.kind in ('delete', 'flatten'):
        merging.carry_on(volume, operation, resumed=True)
    elif operation.kind == 'create':
        return snapshots.resume_create(volume, operation)
    elif operation.kind == 'revert':
        snapshots.resume_revert(volume, operation)
    elif operation.kind == 'clone':
        copies.resume_clone(volume, operation)
    elif operation.kind == bare.KIND:
        bare.resume_adopt(volume)
    elif operation.kind == 'extend':
        growth.carry_on_extend(volume, operation)
    else:
        raise errors.BadJournal(
            file=volume.files.journal,
            reason=f'operation {operation.kind!r} is unknown')
    return None


def leftovers(volume: Volume) -> Iterator[Path]:
    """Yield temporary files of the volume, which nothing refers to."""
    doing = volume.journal().operation
    for name in sorted(os.listdir(volume.files.folder)):
        if volume.files.owns(name) and name.endswith('.tmp') and not (
                doing and name == f'{doing.details.get("file")}.tmp'):
            yield volume.files.folder / name


def _describe(operation: Operation) -> str:
    """Say how an operation will be ended."""
    what = f'the {operation.kind} of {operation.subject}'
    if operation.kind in ('revert', 'clone') or (
            operation.kind, operation.step) == ('create', 'overlay'):
        return f'undo {what}, which had not come to its end'
    if operation.kind == bare.KIND:
        return f'finish or undo {what}'
    where = (', with the host of its guest'
             if operation.attached and operation.step != 'settle' else '')
    return f'finish {what} from step "{operation.step}"{where}'


def _mend_info(volume: Volume, dry_run: bool) -> list[str]:
    """Write .info anew if it is lost and the headers tell what it held."""
    try:
        info = volume.store.read_info()
        broken = ''
    except errors.BadInfo as exc:
        info, broken = None, exc.fields['reason']
    if info is not None:
        volume.state()
        return []
    if not broken and not _overlays(volume):
        return []  # a volume without snapshots has no .info
    chain = _only_chain(volume)
    found, source = _snapshots(volume, chain)
    active = chain.active.name
    read_chain(volume.files, volume.formats(), {'active': active, **found})
    if not dry_run:
        volume.step('write .info')
        volume.store.write_info(active, found)
    return [f'rebuild {volume.files.info.name}, which {broken or "is gone"}, '
            f'from the headers and {source}: active layer {active}, '
            f'snapshots {", ".join(sorted(found)) or "none"}']


def _layers(volume: Volume) -> list[str]:
    return [name for name in sorted(os.listdir(volume.files.folder))
            if volume.files.owns(name) and not name.endswith(names.RESERVED)]


def _overlays(volume: Volume) -> list[str]:
    return [name for name in _layers(volume) if name != volume.files.name]


def _only_chain(volume: Volume) -> Chain:
    """Return the one chain that all of the volume's files make up.

    :raises Disagreement: there is more than one, or a file outside of it.
    """
    found = _layers(volume)
    formats = volume.formats()
    below = {_backing(volume, name) for name in found
             if name != volume.files.name or name not in formats
             or formats[name] == 'qcow2'}
    tops = [name for name in found if name not in below]
    if len(tops) != 1:
        raise volume.disagreement(
            f'which layer is active cannot be told: '
            f'{", ".join(tops) or "none"} could be')
    chain = read_layers(volume.files, tops[0], formats)
    if set(chain.names) != set(found):
        raise volume.disagreement(
            f'{", ".join(sorted(set(found) - set(chain.names)))} cannot be '
            f'placed')
    return chain


def _backing(volume: Volume, name: str) -> str | None:
    """Return a file's backing name, None where it has no header."""
    try:
        return qcow2.read_header(volume.files.path(name)).backing
    except errors.BadLayer:
        if name == volume.files.name:
            return None  # a raw base, if the layer above says so
        raise


def _snapshots(volume: Volume,
               chain: Chain) -> tuple[Mapping[str, str], str]:
    """Return the snapshots of a chain, and who said so."""
    known = volume.store.read_journal()
    overlays = chain.names[1:]
    if known is not None:
        if sorted(known.snapshots.values()) != sorted(overlays):
            raise volume.disagreement(
                'the headers and the journal disagree on the layers, so '
                'which snapshot has which cannot be told')
        return known.snapshots, 'the journal'
    prefix = len(volume.files.name) + 1
    return ({names.check_snapshot_id(name[prefix:]): name
             for name in overlays}, 'the names of the files')
