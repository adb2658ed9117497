# SPDX-License-Identifier: Apache-2.0
"""Everything that can be found wrong with a volume, without changing it.

This module must never write, and never look into a layer that a guest has
open: what is there is only half written at any moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import recover
from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.reader import strangers
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Volume


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    :ivar file: bare name of the file it is about.
    :ivar problem: a sentence.
    """

    file: str
    problem: str


def check(volume: Volume) -> list[Finding]:
    """Return what is wrong; empty for a sound volume."""
    return list(_findings(volume))


def _findings(volume: Volume) -> Iterator[Finding]:
    try:
        doing = volume.journal().operation
        if doing:
            yield Finding(volume.files.journal.name,
                          str(volume.in_flight(doing)))
        for path in recover.leftovers(volume):
            yield Finding(path.name, 'is a temporary file of a write that '
                                     'was cut short')
        state = volume.state()
    except errors.OperationInFlight:
        return  # told already
    except errors.ChainError as exc:
        yield Finding(volume.files.name, str(exc))
        return
    yield from _guest(volume, state)
    for depth, layer in enumerate(state.chain.layers):
        yield from _layer(volume, layer, depth)
    for name, _ in strangers(volume.files, state.chain):
        yield Finding(name, 'belongs to no snapshot and to no layer')


def _guest(volume: Volume, state: VolumeState) -> Iterator[Finding]:
    live = volume.ask()
    if live is not None and live != state.chain.names:
        yield Finding(state.chain.active.name,
                      f'the guest runs on {" <- ".join(live)}, the headers '
                      f'say {" <- ".join(state.chain.names)}')


def _layer(volume: Volume, layer: Layer, depth: int) -> Iterator[Finding]:
    if (layer.format is Format.RAW
            or opened_by_qemu(volume.files.path(layer.name))):
        return
    try:
        volume.tool.check(Image(layer.name, layer.format, depth,
                                layer.encrypted))
    except errors.ImageToolFailed as exc:
        yield Finding(layer.name, str(exc))
