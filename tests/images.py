# SPDX-License-Identifier: Apache-2.0
"""Real volumes on real files, and what must be read back from them.

:class:`Disk` makes a volume's base, writes to it as a guest would, and keeps
in memory what every snapshot must contain from then on, for ever.
"""

from __future__ import annotations

from collections.abc import Collection
import os
from pathlib import Path
import shutil
import subprocess

from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.reader import read_layers
from assisted_snapshots.chain.value import Format

KIB = 1 << 10
MIB = 1 << 20
CLUSTER = 64 * KIB
NAME = 'volume-1'
PASSPHRASE = b'open sesame'
SECRET = Secret(PASSPHRASE, stretch_ms=10)

Write = tuple[int, int, int]


def tool(*argv: object, cwd: Path) -> None:
    """Run a QEMU tool; its complaint is the failure."""
    done = subprocess.run([str(word) for word in argv], cwd=cwd, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, f'{argv}: {done.stdout}{done.stderr}'


class Disk:
    """A volume, and what it must contain.

    :ivar now: content of the volume.
    :ivar snapshots: snapshot id -> content.
    """

    def __init__(self, folder: Path, kind: str, size: int = MIB,
                 name: str = NAME) -> None:
        self.kind = kind
        self.files = VolumeFiles(folder, name)
        self.now = bytearray(size)
        self.snapshots: dict[str, bytes] = {}

    @property
    def formats(self) -> dict[str, Format]:
        """What Cinder knows of the base."""
        return {self.files.name: Format.RAW if self.kind == 'raw'
                else Format.QCOW2}

    @property
    def secret(self) -> Secret | None:
        return SECRET if self.kind == 'luks' else None

    def operations(self, **options: object) -> Operations:
        """Return a fresh view of the volume."""
        return Operations(self.files, formats=self.formats,
                          secret=self.secret,
                          **options)  # type: ignore[arg-type]

    def unpinned(self) -> Operations:
        """Return a view that takes the formats from the journal alone."""
        return Operations(self.files, secret=self.secret)

    def make(self) -> None:
        """Make the base as Cinder would: formatted, empty."""
        options: list[object] = []
        if self.kind == 'luks':
            options = [*self._object(), '-o', 'encrypt.format=luks,'
                       'encrypt.key-secret=s,encrypt.iter-time=10']
        tool('qemu-img', 'create', '-q', '-f', self.formats[self.files.name],
             *options, self.files.name, len(self.now), cwd=self.files.folder)

    def copy(self, folder: Path) -> Disk:
        """Return a copy of the volume with all its files elsewhere."""
        shutil.copytree(self.files.folder, folder)
        other = Disk(folder, self.kind, name=self.files.name)
        other.now = bytearray(self.now)
        other.snapshots = dict(self.snapshots)
        return other

    def write(self, *writes: Write) -> None:
        """Write (offset, length, byte) to the volume, in order."""
        active = self.operations().state().chain.active.name
        commands: list[object] = []
        for offset, length, byte in writes:
            self.now[offset:offset + length] = bytes([byte]) * length
            commands += ['-c', f'write -P {byte} {offset} {length}'
                         if byte else f'write -z {offset} {length}']
        tool('qemu-io', *commands, *self._opened(active),
             cwd=self.files.folder)

    def take(self, snapshot_id: str) -> None:
        """Take a snapshot; from now on its content is known."""
        self.operations().create(snapshot_id)
        self.snapshots[snapshot_id] = bytes(self.now)

    def extend(self, size: int) -> None:
        self.operations().extend(size)
        self.now += bytes(size - len(self.now))

    def content(self, layer: str, form: Format | None = None) -> bytes:
        """Return all that shows through a layer."""
        flat = self.files.folder.parent / (
            f'{self.files.folder.name}.{layer}.flat')
        tool('qemu-img', 'convert', *self._opened(layer, form),
             '-O', 'raw', flat, cwd=self.files.folder)
        try:
            return flat.read_bytes()
        finally:
            flat.unlink()

    def verify(self, *, also: Collection[str] = ()) -> None:
        """See that everything reads back, and nothing lies about.

        :param also: files beside those of the volume that may be there.
        """
        operations = self.operations()
        state = operations.state()
        names = state.chain.names
        assert state.snapshots.keys() <= self.snapshots.keys()
        for snapshot_id, file in state.snapshots.items():
            below = names[names.index(file) - 1]
            found = self.content(below)
            _same(f'snapshot {snapshot_id}', found,
                  self.snapshots[snapshot_id])
        _same('volume', self.content(names[-1]), self.now)
        assert operations.check() == []
        mine = {path.name for path in (
            self.files.info, self.files.journal, self.files.lock)}
        assert {*os.listdir(self.files.folder)} - mine - {*also} == {*names}

    def _object(self) -> list[object]:
        return ['--object',
                f'secret,id=s,data={PASSPHRASE.decode()}']

    def _opened(self, layer: str,
                form: Format | None = None) -> list[object]:
        """Return the arguments to open a layer with all below it."""
        if self.kind != 'luks':
            return ['-f', form or self.formats.get(layer, Format.QCOW2),
                    layer]
        depth = len(read_layers(self.files, layer, self.formats).layers)
        return [*self._object(), '--image-opts', ','.join([
            'driver=qcow2', f'file.filename={layer}',
            *('backing.' * i + 'encrypt.key-secret=s'
              for i in range(depth))])]


def _same(what: str, found: bytes, wanted: bytes | bytearray) -> None:
    """Compare two contents; say where they differ first."""
    assert len(found) == len(wanted), (
        f'{what}: {len(found)} bytes instead of {len(wanted)}')
    if found != wanted:
        at = next(i for i in range(len(found)) if found[i] != wanted[i])
        raise AssertionError(f'{what}: byte {at} is {found[at]} instead of '
                             f'{wanted[at]}')
