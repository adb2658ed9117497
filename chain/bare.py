# SPDX-License-Identifier: Apache-2.0
"""A LUKS container without qcow2 around it, made a layer.

Upstream makes such a file of an encrypted volume's snapshot and calls it raw.
It can have no overlay, and what looks at it as raw sees its cipher text, so
it is converted aside and put in place of itself; the passphrase stays.

======================  =================================================
killed                  then
======================  =================================================
before the exchange     undone: the copy is removed
later                   finished: the layer is qcow2 from now on
======================  =================================================

Which it is the header says: whoever has only the volume can write no plain
text into either.  This module must never be used on a volume that is not
encrypted, and never decrypt onto a share.
"""

from __future__ import annotations

import os
from types import MappingProxyType

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.header import open_layer
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.store import blank
from assisted_snapshots.chain.store import Journal
from assisted_snapshots.chain.store import Operation
from assisted_snapshots.chain.store import Pinned
from assisted_snapshots.chain.store import sync_file
from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Volume

KIND = 'adopt'

_MAGIC = b'LUKS\xba\xbe'


def is_bare(files: VolumeFiles) -> bool:
    """Tell whether an encrypted volume's base is a bare LUKS container."""
    try:
        with open_layer(files.base) as fd:
            return os.pread(fd, len(_MAGIC), 0) == _MAGIC
    except errors.MissingLayer:
        return False


def begin_adopt(volume: Volume, size: int, state: VolumeState) -> Operation:
    """Check and write down a conversion; no format is pinned meanwhile."""
    volume.detached(state, 'the conversion of a LUKS container')
    volume.check_space(KIND, state.chain.allocated)
    operation = Operation(KIND, volume.files.name, 'convert', False,
                          {'file': volume.files.name, 'size': size})
    volume.step('write the intent')
    volume.store.write_journal(Journal(operation=operation))
    return operation


def carry_on_adopt(volume: Volume, operation: Operation) -> None:
    """Convert, and put it in place."""
    base = volume.files.base
    aside = base.with_name(f'{base.name}.tmp')
    made = Image(aside.name, Format.QCOW2, 0, encrypted=True)
    try:
        with volume.guarded(base.name):
            volume.step('convert')
            blank(aside, base.stat())
            volume.tool.wrap(base.name, aside.name)
            volume.step('resize')
            volume.tool.resize(made, int(operation.details['size']))
            volume.step('flush')
            sync_file(aside)
            volume.step('put it in place')
            aside.rename(base)
            sync_folder(base.parent)
    except (errors.ImageToolFailed, errors.VolumeInUse):
        resume_adopt(volume)
        raise
    resume_adopt(volume)


def resume_adopt(volume: Volume) -> None:
    """Finish a conversion that came to the exchange, or undo it."""
    base = volume.files.base
    volume.remove(base.with_name(f'{base.name}.tmp'))
    if is_bare(volume.files):
        volume.drop()
        return
    volume.step('pin the format')
    volume.store.write_journal(Journal(MappingProxyType(
        {base.name: Pinned(Format.QCOW2, encrypted=True)})))
