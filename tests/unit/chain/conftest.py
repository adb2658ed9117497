# SPDX-License-Identifier: Apache-2.0
"""A folder of real images, made by the real qemu-img and qemu-io."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
from pathlib import Path
import struct
import subprocess
from typing import Any

import pytest

from assisted_snapshots.chain.names import VolumeFiles

MIB = 1 << 20
SECRET = ('--object', 'secret,id=key,data=secret')


class Share:
    """One volume's folder, and what a test does to it behind our back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = VolumeFiles(folder, 'volume-1')

    def run(self, *argv: object) -> str:
        done = subprocess.run([str(word) for word in argv], cwd=self.folder,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def raw(self, name: str = 'volume-1', size: int = 4 * MIB) -> Path:
        self.run('qemu-img', 'create', '-q', '-f', 'raw', name, size)
        return self.folder / name

    def qcow2(self, name: str = 'volume-1', size: int = 4 * MIB, *,
              backing: str | None = None, fmt: str = 'qcow2',
              luks: bool = False, **options: object) -> Path:
        argv = ['qemu-img', 'create', '-q', '-f', 'qcow2']
        if luks:
            argv += SECRET
            options |= {'encrypt.format': 'luks', 'encrypt.key-secret': 'key',
                        'encrypt.iter-time': 10}
        if options:
            argv += ['-o', ','.join(f'{k}={v}' for k, v in options.items())]
        if backing is not None:
            argv += ['-u', '-b', backing, '-F', fmt]
        self.run(*argv, name, size)
        return self.folder / name

    def _opened(self, name: str, luks: bool, fmt: str) -> list[str]:
        if not luks:
            return ['-f', fmt, name]
        return [*SECRET, '--image-opts',
                f'driver={fmt},file.filename={name},encrypt.key-secret=key']

    def io(self, name: str, *commands: str, luks: bool = False,
           fmt: str = 'qcow2') -> None:
        argv = ['qemu-io']
        for command in commands:
            argv += ['-c', command]
        out = self.run(*argv, *self._opened(name, luks, fmt))
        assert 'failed' not in out, out

    def map(self, name: str, *, luks: bool = False) -> list[dict[str, Any]]:
        """What QEMU says of every part of the disk."""
        answer = json.loads(self.run('qemu-img', 'map', '--output=json',
                                     *self._opened(name, luks, 'qcow2')))
        assert isinstance(answer, list)
        return answer

    def patch(self, name: str, offset: int, data: bytes) -> None:
        with (self.folder / name).open('r+b') as image:
            image.seek(offset)
            image.write(data)

    def number(self, name: str, offset: int, code: str) -> int:
        """Read a big-endian number out of a file."""
        data = (self.folder / name).read_bytes()
        return int(struct.unpack_from('>' + code, data, offset)[0])

    def info(self, **entries: str) -> dict[str, str]:
        """Write .info the way Cinder does."""
        self.files.info.write_text(
            json.dumps(entries, indent=1, sort_keys=True))
        return entries

    def snapshots(self, count: int, *, base: str = 'qcow2',
                  **options: Any) -> dict[str, str]:
        """Make a base and so many overlays; returns the .info."""
        if base == 'raw':
            self.raw()
        else:
            self.qcow2(**options)
        below, entries = 'volume-1', {}
        for i in range(1, count + 1):
            name = f'volume-1.s{i}'
            self.qcow2(name, backing=below, fmt=base if i == 1 else 'qcow2',
                       **options)
            entries[f's{i}'] = below = name
        return self.info(active=below, **entries)

    def digest(self) -> Mapping[str, str]:
        """Content of every file: to see that nothing was changed."""
        return {entry.name: hashlib.sha256(entry.read_bytes()).hexdigest()
                for entry in sorted(self.folder.iterdir())
                if entry.is_file() and not entry.is_symlink()}


@pytest.fixture
def share(tmp_path: Path) -> Share:
    return Share(tmp_path)
