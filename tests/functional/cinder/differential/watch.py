# SPDX-License-Identifier: Apache-2.0
"""Does something at an exact moment of a driver's work.

Seen by Python's audit events, which tell of every process that is started
and every file that is renamed or removed: the driver is not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
import functools
import os
import signal
import sys
from typing import Any

#: Told of what is about to happen: a command line, or a file operation.
Watcher = Callable[[str], None]

_watchers: list[Watcher] = []
_FILES = ('os.remove', 'os.rename', 'os.chmod', 'os.link')


@functools.cache
def _install() -> None:
    sys.addaudithook(_audit)


def _audit(name: str, args: tuple[Any, ...]) -> None:
    if not _watchers:
        return
    if name == 'subprocess.Popen':
        told = ' '.join(map(str, args[1]))
    elif name in _FILES:
        told = f'{name} {args[0]}'
    else:
        return
    for watcher in tuple(_watchers):
        watcher(told)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Have somebody told; what it raises comes out of the driver's call."""
    _install()
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def die(now: bool) -> None:
    """End this process as a power cut would, if it is time."""
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
