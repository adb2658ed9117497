# SPDX-License-Identifier: Apache-2.0
"""Work that blocks, kept off eventlet's hub.

Cinder runs with eventlet's monkey patching by default: a file lock or a
qemu-img that blocks the one real thread would stop the whole service.  So
all chain work goes through :func:`native`, which gives it a real thread; on
native threads it is a plain call.

Work in such a thread must never touch what belongs to the hub: the
database, Cinder's objects, its message bus.  :func:`home` sends a call back
to the green thread that is waiting in :func:`native`.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import Any
from typing import ParamSpec
from typing import TypeVar

from cinder import monkey_patch
from eventlet import hubs
from eventlet import patcher

_P = ParamSpec('_P')
_T = TypeVar('_T')

# The real ones, whatever is patched.
_queue = patcher.original('queue')
_threading = patcher.original('threading')

_here = _threading.local()

# Where the threads that have no work wait for it.
_idle: list[Any] = []

# Seconds between two looks whether anybody still waits at home.
_LOOK = 1.0


class Abandoned(Exception):
    """The green thread that started native work has been killed."""

    def __init__(self) -> None:
        super().__init__('nobody waits for this work any more')


def native(fn: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call something that may block; returns what it returns.

    Called within native work it is a plain call.
    """
    if not monkey_patch.is_patched() or _errand() is not None:
        return fn(*args, **kwargs)
    return _Errand().run(lambda: fn(*args, **kwargs))


def home(fn: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call something that belongs to the hub, from within native work.

    Elsewhere it is a plain call.
    """
    errand = _errand()
    if errand is None:
        return fn(*args, **kwargs)
    return errand.ask(lambda: fn(*args, **kwargs))


def _start(work: Callable[[], None]) -> None:
    """Have work done by a thread that has none; there is always one.

    A merge lasts for hours, and eventlet's pool has few threads.  They are
    kept, because each that sleeps once has a hub, which is never closed.
    """
    try:
        tasks = _idle.pop()
    except IndexError:
        tasks = _queue.SimpleQueue()
        _threading.Thread(target=_serve, args=(tasks,), name='native',
                          daemon=True).start()
    tasks.put(work)


def _serve(tasks: Any) -> None:
    while True:
        tasks.get()()
        _idle.append(tasks)


def _errand() -> _Errand | None:
    found: _Errand | None = getattr(_here, 'errand', None)
    return found


class _Request:
    """One call sent home, and its outcome."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        self._fn = fn
        self._done = _threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def answer(self) -> None:
        try:
            self._result = self._fn()
        except Exception as exc:
            self._error = exc
        except BaseException:
            self._error = Abandoned()
            raise
        finally:
            self._done.set()

    def result(self, abandoned: Callable[[], bool]) -> Any:
        while not self._done.wait(_LOOK):
            if abandoned():
                raise Abandoned
        if self._error is not None:
            raise self._error
        return self._result


class _Errand:
    """Work in a real thread, and the green thread that waits for it.

    The two talk through a queue; a pipe wakes the hub.
    """

    def __init__(self) -> None:
        self._requests = _queue.SimpleQueue()
        self._reader, self._writer = os.pipe()
        self._abandoned = False
        self._lock = _threading.Lock()
        self._ends = 2
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self, fn: Callable[[], _T]) -> _T:
        """Start the work and answer its questions until it has ended."""
        _start(lambda: self._work(fn))
        try:
            while True:
                hubs.trampoline(self._reader, read=True)
                os.read(self._reader, 1)
                request = self._requests.get()
                if request is None:
                    break
                request.answer()
        finally:
            self._abandoned = True
            self._leave()
        if self._error is not None:
            raise self._error
        result: _T = self._result
        return result

    def ask(self, fn: Callable[[], _T]) -> _T:
        """Have something done at home; called in the real thread."""
        request = _Request(fn)
        self._send(request)
        result: _T = request.result(lambda: self._abandoned)
        return result

    def _work(self, fn: Callable[[], Any]) -> None:
        _here.errand = self
        try:
            self._result = fn()
        except BaseException as exc:
            self._error = exc
        finally:
            _here.errand = None
            self._send(None)
            self._leave()

    def _send(self, request: _Request | None) -> None:
        self._requests.put(request)
        os.write(self._writer, b'.')

    def _leave(self) -> None:
        """Close the pipe when both ends have done with it."""
        with self._lock:
            self._ends -= 1
            if self._ends:
                return
        os.close(self._reader)
        os.close(self._writer)
