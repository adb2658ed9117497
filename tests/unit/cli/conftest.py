# SPDX-License-Identifier: Apache-2.0
"""The real command, run on real share folders made by the real qemu-img."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
import subprocess
from typing import Any

import pytest

from assisted_snapshots.cli.main import main

MIB = 1 << 20


@dataclass(frozen=True)
class Result:
    """What a run of the command gave."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


class Share:
    """A share's folder, written to behind the command's back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def qemu(self, tool: str, *argv: object) -> str:
        return subprocess.run(
            [tool, *map(str, argv)], cwd=self.folder, check=True,
            capture_output=True, text=True).stdout

    def volume(self, name: str = 'volume-1', form: str = 'raw',
               size: int = 8 * MIB) -> Path:
        self.qemu('qemu-img', 'create', '-q', '-f', form, name, size)
        return self.folder / name

    def write(self, name: str, pattern: int, offset: int = 0,
              length: int = MIB, form: str = 'qcow2') -> None:
        self.qemu('qemu-io', '-f', form, '-c',
                  f'write -P {pattern} {offset} {length}', name)

    def digest(self, name: str, form: str = 'qcow2') -> str:
        raw = self.folder.parent / 'digest.raw'
        self.qemu('qemu-img', 'convert', '-f', form, '-O', 'raw', name, raw)
        try:
            return hashlib.sha256(raw.read_bytes()).hexdigest()
        finally:
            raw.unlink()

    def info(self, name: str = 'volume-1') -> dict[str, str]:
        text = (self.folder / f'{name}.info').read_text()
        found: dict[str, str] = json.loads(text)
        return found

    def files(self) -> dict[str, bytes]:
        """Everything on the share, for "nothing was changed"."""
        return {p.name: p.read_bytes() for p in self.folder.iterdir()
                if not p.name.endswith('.lock')}


@pytest.fixture
def share(tmp_path: Path) -> Share:
    folder = tmp_path / 'share'
    folder.mkdir()
    return Share(folder)


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str],
         monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, without any share or agent."""
    for name in ('SHARE', 'TRANSPORT_URL', 'HOST'):
        monkeypatch.delenv(f'ASSISTED_SNAPSHOT_{name}', raising=False)

    def run(*argv: object) -> Result:
        capsys.readouterr()
        try:
            status = main([str(word) for word in argv])
        except SystemExit as exc:
            status = int(exc.code or 0)
        done = capsys.readouterr()
        return Result(status, done.out, done.err)
    return run


@pytest.fixture
def run(bare: Run, share: Share, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command on the share."""
    monkeypatch.setenv('ASSISTED_SNAPSHOT_SHARE', str(share.folder))
    return bare


@pytest.fixture
def chain(run: Run, share: Share) -> Share:
    """A raw volume with snapshots a, b and c; each layer has its MiB."""
    share.volume()
    share.write('volume-1', 1, form='raw')
    for number, snapshot in enumerate('abc', 2):
        done = run('--base-format', 'raw', 'snapshot', 'create', '1',
                   snapshot)
        assert done.status == 0, done.err
        share.write(f'volume-1.{snapshot}', number, (number - 1) * MIB)
    return share
