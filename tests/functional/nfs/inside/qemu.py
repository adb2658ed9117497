# SPDX-License-Identifier: Apache-2.0
"""A QEMU that keeps an image open, as that of a guest does."""

from __future__ import annotations

from collections.abc import Sequence
import os
import re
import subprocess

from tests.functional.nfs.lab import line


def hold(folder: str, name: str, form: str,
         writes: Sequence[tuple[int, int, int]]) -> None:
    """Open an image, write, and keep it open until the test says go."""
    command = ['qemu-io', '-t', 'none', '-f', form, name]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for offset, length, byte in writes:
            child.stdin.write(f'write -P {byte} {offset} {length}\n'
                              .encode())
        child.stdin.write(b'flush\nlength\n')
        child.stdin.flush()
        answer = b''
        while not re.search(rb'[0-9] .?i?B(ytes)?\n', answer, re.IGNORECASE):
            answer += os.read(child.stdout.fileno(), 4096)
        line.ask('open')
        child.stdin.close()
        child.stdout.read()
    assert child.returncode == 0, child.returncode
