# SPDX-License-Identifier: Apache-2.0
"""A QEMU that keeps an image open, as that of a guest does."""

from __future__ import annotations

from collections.abc import Sequence
import os
import subprocess

from tests.functional.nfs.lab import line


def hold(folder: str, name: str, form: str,
         writes: Sequence[tuple[int, int, int]],
         later: Sequence[tuple[int, int, int]] = ()) -> None:
    """Open an image, write, and keep it open until the test says go.

    :param later: what it writes then.
    """
    command = ['qemu-io', '-t', 'none', '-f', form, name]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as child:
        _answer(child)
        _write(child, writes)
        line.ask('open')
        _write(child, later)
        _order(child, 'quit')


def _write(child: subprocess.Popen[bytes],
           writes: Sequence[tuple[int, int, int]]) -> None:
    for offset, length, byte in writes:
        _order(child, f'write -P {byte} {offset} {length}')
    _order(child, 'flush')


def _order(child: subprocess.Popen[bytes], command: str) -> None:
    """Have one command done; one at a time, as it reads ahead."""
    assert child.stdin is not None
    child.stdin.write(f'{command}\n'.encode())
    child.stdin.flush()
    if command != 'quit':
        _answer(child)


def _answer(child: subprocess.Popen[bytes]) -> None:
    """Wait until it is ready for the next command."""
    assert child.stdout is not None
    answer = b''
    while not answer.endswith(b'qemu-io> '):
        said = os.read(child.stdout.fileno(), 4096)
        assert said, f'qemu-io ended: {answer!r}'
        answer += said
    assert b'failed' not in answer, answer
