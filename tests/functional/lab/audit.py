# SPDX-License-Identifier: Apache-2.0
"""Audits a volume's files after an operation, by qemu-img and JSON alone.

None of the project's own readers is used: a reader and a writer that share
a mistake would agree with each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.functional.lab import content
from tests.functional.lab import images
from tests.functional.lab.share import Volume

#: Suffixes of what may lie next to the layers.
METADATA = ('info', 'journal', 'lock')


class AuditError(AssertionError):
    """The files of a volume do not fit together."""

    message = '{volume}: {reason}'

    def __init__(self, volume: Volume, reason: str) -> None:
        super().__init__(self.message.format(volume=volume.name,
                                             reason=reason))


def layers(volume: Volume) -> tuple[str, ...]:
    """The volume's layers after the headers on the share, base first.

    :raises AuditError: a backing name is not bare, or has no format.
    """
    found = images.chain(volume.active, volume.active_format)
    for layer in found[1:]:
        if '/' in layer['backing-filename']:
            _wrong(volume, f'{layer["filename"]} has backing name '
                           f'{layer["backing-filename"]}')
        if 'backing-filename-format' not in layer:
            _wrong(volume, f'{layer["filename"]} names no backing format')
    return tuple(Path(layer['filename']).name for layer in found)


def settled(volume: Volume, snapshots: Iterable[str] = ()) -> None:
    """Everything fits, nothing is left over, and no layer is damaged.

    :param snapshots: ids that must be there, oldest first.
    :raises AuditError: something does not fit.
    """
    fits(volume, snapshots)
    no_orphans(volume, layers(volume))


def fits(volume: Volume, snapshots: Iterable[str] = ()) -> None:
    """The chain is what the records say, and no layer is damaged.

    :param snapshots: ids that must be there, oldest first.
    :raises AuditError: something does not fit.
    """
    names = layers(volume)
    recorded = volume.info
    if recorded.pop('active', volume.name) != names[-1]:
        _wrong(volume, f'.info names another active layer than {names[-1]}')
    if set(recorded) != set(snapshots):
        _wrong(volume, f'.info knows snapshots {sorted(recorded)}, '
                       f'expected {sorted(snapshots)}')
    order = [recorded[snapshot] for snapshot in snapshots]
    if order != [name for name in names if name in order]:
        _wrong(volume, f'the overlays {order} are not in the chain {names}')
    for name in names:
        if name != volume.name or volume.format == 'qcow2':
            images.check(volume.folder / name, volume.secret)


def below(volume: Volume, snapshot: str) -> tuple[Path, str]:
    """The layer that shows a snapshot's content, and its format."""
    names = layers(volume)
    name = names[names.index(volume.info[snapshot]) - 1]
    return (volume.folder / name,
            volume.format if name == volume.name else 'qcow2')


def snapshot_holds(volume: Volume, snapshot: str,
                   pattern: content.Pattern,
                   bounds: content.Bounds | None = None) -> int:
    """Prove a snapshot's content; its last record."""
    image, fmt = below(volume, snapshot)
    return content.prove(image, fmt, pattern, bounds, secret=volume.secret)


def active_holds(volume: Volume, pattern: content.Pattern,
                 bounds: content.Bounds | None = None) -> int:
    """Prove the content of a volume that no guest uses; its last record."""
    return content.prove(volume.active, volume.active_format, pattern,
                         bounds, secret=volume.secret)


def no_orphans(volume: Volume, names: Iterable[str]) -> None:
    """Nothing lies beside the layers but what belongs to them.

    :raises AuditError: something does.
    """
    known = {*names, *(f'{volume.name}.{suffix}' for suffix in METADATA)}
    orphans = volume.files() - known
    if orphans:
        _wrong(volume, f'nothing refers to {sorted(orphans)}')


def _wrong(volume: Volume, reason: str) -> None:
    raise AuditError(volume, reason)
