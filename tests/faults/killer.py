# SPDX-License-Identifier: Apache-2.0
"""Running an operation in a process of its own, and killing it there."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import struct
import subprocess
import traceback

_SOURCE = Path(__file__).with_name('killer.c')

Act = Callable[[Callable[[str], None]], object]


def build(folder: Path) -> Path:
    """Compile the library that counts and kills; returns its path."""
    library = folder / 'killer.so'
    subprocess.run(['cc', '-shared', '-fPIC', '-O2', '-Wall', '-Werror',
                    '-o', str(library), str(_SOURCE), '-ldl'], check=True)
    return library


@contextmanager
def loaded(library: Path, counter: Path | None = None,
           at: int = 0) -> Iterator[None]:
    """Load the library into every tool that is started meanwhile."""
    changes = {'LD_PRELOAD': str(library), 'KILLER_AT': str(at),
               'KILLER_COUNTER': str(counter or '')}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def count(library: Path, counter: Path, act: Act) -> tuple[list[str], int]:
    """Run an operation uncut; returns its steps and changes to files."""
    steps: list[str] = []
    counter.write_bytes(bytes(8))
    with loaded(library, counter):
        act(steps.append)
    return steps, struct.unpack('=q', counter.read_bytes())[0]


def kill_at_step(act: Act, number: int) -> None:
    """Run an operation and kill its process in front of a step."""
    left = number

    def observer(_step: str) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    _killed(lambda: act(observer))


def kill_at_change(library: Path, counter: Path, act: Act,
                   number: int) -> None:
    """Run an operation and kill all of it in front of a change."""
    counter.write_bytes(bytes(8))
    with loaded(library, counter, number):
        _killed(lambda: act(lambda _step: None))


def _killed(run: Callable[[], object]) -> None:
    """Run something in a child that must not survive it."""
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f'it ended by itself: {status}'
    assert os.WTERMSIG(status) == signal.SIGKILL
