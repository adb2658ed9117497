# SPDX-License-Identifier: Apache-2.0
"""Volumes on the share as a client sees them, through chain's operations."""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import os
from pathlib import Path
import stat
import tempfile
from typing import Any

from assisted_snapshots.chain.lock import opened_by_qemu
from assisted_snapshots.chain.lock import VolumeLock
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.value import Format
from tests import images
from tests.functional.nfs.lab import line

Write = tuple[int, int, int]


def disk(folder: str, name: str, kind: str, size: int) -> images.Disk:
    """A volume's files as the tests of chain know them."""
    return images.Disk(Path(folder), kind, size, name)


def make(folder: str, name: str, kind: str, size: int, mode: int) -> None:
    """Make an empty volume as Cinder does."""
    made = disk(folder, name, kind, size)
    made.make()
    made.files.base.chmod(mode)


def write(folder: str, name: str, kind: str, size: int,
          writes: Sequence[Write]) -> None:
    """Write to the active layer with a QEMU tool."""
    disk(folder, name, kind, size).write(
        *((offset, length, byte) for offset, length, byte in writes))


def operate(folder: str, name: str, kind: str, size: int, method: str,
            arguments: Sequence[Any], *, pause: bool = False,
            ) -> list[tuple[str, dict[str, list[int]]]]:
    """Do one operation; what every file looked like at each step.

    :param pause: ask the test before every step.
    """
    found = []

    def observer(step: str) -> None:
        found.append((step, modes(folder)))
        if pause:
            line.ask(step)

    operations = disk(folder, name, kind, size).operations(observer=observer)
    getattr(operations, method)(*arguments)
    found.append(('done', modes(folder)))
    return found


def clone(folder: str, name: str, kind: str, size: int, snapshot: str,
          target: str, form: str) -> list[tuple[str, dict[str, list[int]]]]:
    """Clone a snapshot onto the same share."""
    return operate(folder, name, kind, size, 'clone',
                   [snapshot, Path(folder, target), Format(form)])


def modes(folder: str) -> dict[str, list[int]]:
    """Owner, group and mode of every file."""
    found = {}
    for name in os.listdir(folder):
        try:
            status = os.lstat(Path(folder, name))
        except FileNotFoundError:
            continue
        found[name] = [status.st_uid, status.st_gid,
                       stat.S_IMODE(status.st_mode)]
    return found


def contents(folder: str, name: str, kind: str,
             size: int) -> dict[str, Any]:
    """Digests of all that can be read, and what ``check`` says."""
    seen = disk(folder, name, kind, size)
    operations = seen.operations()
    state = operations.state()
    names = state.chain.names
    layers = {snapshot: names[names.index(file) - 1]
              for snapshot, file in state.snapshots.items()}
    layers[''] = names[-1]
    with tempfile.TemporaryDirectory() as aside:
        return {'layers': list(names),
                'found': [str(finding) for finding in operations.check()],
                'content': {who: digest(seen, layer, Path(aside, 'flat'))
                            for who, layer in layers.items()}}


def digest(seen: images.Disk, layer: str, flat: Path) -> str:
    """What shows through a layer."""
    images.tool('qemu-img', 'convert', *seen._opened(layer), '-O', 'raw',
                flat, cwd=seen.files.folder)
    return hashlib.sha256(flat.read_bytes()).hexdigest()


def clone_digest(folder: str, name: str, kind: str) -> str:
    """What a clone holds, from its own files alone."""
    with tempfile.TemporaryDirectory() as aside:
        return digest(disk(folder, name, kind, 0), name, Path(aside, 'flat'))


def state(folder: str, name: str, kind: str, size: int) -> dict[str, Any]:
    """What the headers and .info say, read once."""
    found = disk(folder, name, kind, size).operations().state()
    return {'layers': list(found.chain.names),
            'snapshots': dict(found.snapshots),
            'size': found.chain.virtual_size}


def opened(folder: str, name: str) -> bool:
    """Whether a QEMU anywhere has a layer open."""
    return opened_by_qemu(Path(folder, name))


def hold_lock(folder: str, name: str, remove: bool = False,
              pause: bool = False) -> None:
    """Hold a volume's lock until the test says go.

    :param remove: and then remove it.
    :param pause: also ask the test once it is open, before it is locked.
    """
    files = VolumeFiles(Path(folder), name)
    if pause:
        _pause_before(os, 'fchmod', 'opened')
    line.tell('trying')
    with VolumeLock(files):
        line.ask('locked')
        if remove:
            files.lock.unlink()


def _pause_before(module: Any, name: str, what: str) -> None:
    """Have the next call of a function wait for the test."""
    function = getattr(module, name)

    def paused(*arguments: Any) -> Any:
        setattr(module, name, function)
        line.ask(what)
        return function(*arguments)

    setattr(module, name, paused)


def look(folder: str, names: Sequence[str]) -> list[bool]:
    """Fill the client's caches of names; which of them exist."""
    os.listdir(folder)
    return [os.path.lexists(Path(folder, name)) for name in names]


def attempt(path: str) -> str:
    """What opening a folder comes to."""
    try:
        os.listdir(path)
    except OSError as exc:
        return type(exc).__name__
    return 'done'


def asked(folder: str, request: str) -> int:
    """How often this client has sent a request for a mount."""
    text = Path('/proc/self/mountstats').read_text()
    [mount] = [part for part in text.split('\ndevice ')
               if f' mounted on {folder} ' in part]
    [row] = [row for row in mount.splitlines()
             if row.strip().startswith(f'{request}: ')]
    return int(row.split()[1])
