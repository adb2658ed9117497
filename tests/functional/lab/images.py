# SPDX-License-Identifier: Apache-2.0
"""The laboratory's own use of qemu-img, independent of the project's.

Headers are followed as they stand on disk: what is proved is what another
reader of the share would see.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
from pathlib import Path
import subprocess
from typing import Any

SECRET_ID = 'lab'


class ImageToolError(AssertionError):
    """qemu-img said no."""

    message = '{command} failed: {stderr}'

    def __init__(self, command: str, stderr: str) -> None:
        super().__init__(self.message.format(command=command, stderr=stderr))


def run(*arguments: str | Path, cwd: Path | None = None,
        secret: bytes | None = None) -> str:
    """Run ``qemu-img`` and return what it printed.

    :param secret: passphrase of LUKS layers, known to it as ``lab``.
    """
    command = ['qemu-img', *map(str, arguments)]
    done = _execute(command, cwd, secret)
    if done.returncode:
        raise ImageToolError(' '.join(command), done.stderr.strip())
    return done.stdout


def _execute(command: list[str], cwd: Path | None, secret: bytes | None
             ) -> subprocess.CompletedProcess[str]:
    """The passphrase travels in memory only."""
    if secret is None:
        return subprocess.run(command, cwd=cwd, text=True, check=False,
                              capture_output=True)
    handle = os.memfd_create('secret', 0)
    try:
        os.write(handle, secret)
        command[2:2] = [
            '--object',
            f'secret,id={SECRET_ID},file=/proc/self/fd/{handle}']
        return subprocess.run(command, cwd=cwd, text=True, check=False,
                              capture_output=True, pass_fds=[handle])
    finally:
        os.close(handle)


def create(path: Path, fmt: str, size: int | None = None, *,
           backing: Path | None = None, backing_format: str = 'qcow2',
           secret: bytes | None = None) -> None:
    """Make an image; an overlay names its backing file relatively."""
    options: list[str] = []
    if secret is not None:
        options = ['-o', f'encrypt.format=luks,encrypt.key-secret={SECRET_ID}'
                         ',encrypt.iter-time=10']
    if backing is not None:
        size = size or virtual_size(backing, backing_format)
        options += ['-u', '-b', backing.name, '-F', backing_format]
    run('create', '-q', '-f', fmt, *options, path.name, str(size),
        cwd=path.parent, secret=secret)


def virtual_size(path: Path, fmt: str) -> int:
    """Size a guest would see."""
    found = json.loads(run('info', '-U', '-f', fmt, '--output=json', path))
    return int(found['virtual-size'])


def chain(active: Path, fmt: str) -> list[dict[str, Any]]:
    """``qemu-img info`` of every layer, base first."""
    found = json.loads(run('info', '-U', '-f', fmt, '--backing-chain',
                           '--output=json', active))
    return list(reversed(found))


def options(active: Path, fmt: str, encrypted: bool) -> dict[str, str]:
    """``--image-opts`` of an image and all its backing files.

    Only spelled out in full can every LUKS layer be given its secret.
    """
    opts: dict[str, str] = {}
    prefix = ''
    for layer in reversed(chain(active, fmt)):
        opts |= {f'{prefix}driver': layer['format'],
                 f'{prefix}file.driver': 'file',
                 f'{prefix}file.filename': layer['filename']}
        if encrypted and layer.get('encrypted'):
            key = ('key-secret' if layer['format'] == 'luks'
                   else 'encrypt.key-secret')
            opts[f'{prefix}{key}'] = SECRET_ID
        prefix += 'backing.'
    return opts


def to_raw(active: Path, fmt: str, target: Path,
           secret: bytes | None = None) -> None:
    """Copy what a guest would see to a sparse raw file."""
    opts = ','.join(f'{key}={str(value).replace(",", ",,")}' for key, value
                    in options(active, fmt, secret is not None).items())
    run('convert', '-U', '-S', '4k', '--image-opts', '-O', 'raw', opts,
        target, secret=secret)


def from_raw(source: Path, target: Path, fmt: str) -> None:
    """Copy a raw file into an image of another format."""
    run('convert', '-f', 'raw', '-O', fmt, source, target)


def check(path: Path, secret: bytes | None = None) -> None:
    """``qemu-img check`` of one qcow2 file: no error, no leak.

    :raises ImageToolError: it is not clean.
    """
    opts = ['driver=qcow2', 'file.driver=file', f'file.filename={path}']
    # The layers below are not looked at, and need not be there.
    opts.append('backing=')
    if secret is not None:
        opts.append(f'encrypt.key-secret={SECRET_ID}')
    run('check', '-q', '-U', '--image-opts', ','.join(opts), secret=secret)


def io(path: Path, fmt: str, commands: Sequence[str]) -> None:
    """Damage or fill an image on purpose, with ``qemu-io``."""
    arguments = [part for c in commands for part in ('-c', c)]
    subprocess.run(['qemu-io', '-f', fmt, *arguments, path], check=True,
                   capture_output=True)
