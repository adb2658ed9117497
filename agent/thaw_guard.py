# SPDX-License-Identifier: Apache-2.0
"""The dead man's switch: thaws guests that the agent can not thaw any more.

A process of its own (``python -m assisted_snapshots.agent.thaw_guard URI``)
in a session of its own, so that whatever kills the agent does not kill it.
It reads commands from its standard input, one per line:

``arm UUID SECONDS``
    thaw this guest when the seconds are over, unless disarmed;
``disarm UUID``
    the guest has been thawed.

and answers each with the same word.  When the pipe closes, or the guard is
told to terminate, it thaws all that is armed and ends.  It must never do
anything to a guest but thaw it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

import libvirt

_IDLE = 1.0
_RETRY = 0.5
_PATIENCE = 600.0
_NEEDLESS = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID,
             libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED)


def thaw(uri: str, uuid: str) -> bool:
    """Try once to thaw a guest; True when nothing is left to do."""
    try:
        conn = libvirt.open(uri)
    except libvirt.libvirtError:
        return False
    try:
        conn.lookupByUUIDString(uuid).fsThaw(None, 0)
    except libvirt.libvirtError as e:
        return e.get_error_code() in _NEEDLESS
    finally:
        conn.close()
    return True


class Guard:
    """Armed guests and the loop that watches over them."""

    def __init__(self, uri: str, commands: int) -> None:
        self._uri = uri
        self._commands = commands
        self._armed: dict[str, tuple[float, threading.Event]] = {}
        self._rest = b''
        self._hurried = False

    def run(self) -> None:
        """Watch until the pipe is closed; thaw what is armed then."""
        say('ready')
        while not self._hurried and self._listen():
            now = time.monotonic()
            for uuid in [u for u, (due, _) in self._armed.items()
                         if due <= now]:
                self._release(uuid)
        for uuid in list(self._armed):
            self._release(uuid)

    def hurry(self, *_signal: object) -> None:
        """Nobody is there any more."""
        self._hurried = True

    def _release(self, uuid: str) -> None:
        """Thaw a guest without waiting for it."""
        _due, disarmed = self._armed.pop(uuid)
        threading.Thread(target=self._thaw, args=(uuid, disarmed)).start()

    def _thaw(self, uuid: str, disarmed: threading.Event) -> None:
        until = time.monotonic() + _PATIENCE
        while not disarmed.is_set() and not thaw(self._uri, uuid) \
                and time.monotonic() < until:
            disarmed.wait(_RETRY)

    def _listen(self) -> bool:
        """Obey until the next guest is due; False when the pipe closed."""
        wait = _IDLE
        if self._armed:
            first = min(due for due, _ in self._armed.values())
            wait = max(0.0, min(wait, first - time.monotonic()))
        if not select.select([self._commands], [], [], wait)[0]:
            return True
        data = os.read(self._commands, 4096)
        *lines, self._rest = (self._rest + data).split(b'\n')
        for line in lines:
            self._obey(line.decode().split())
        return bool(data)

    def _obey(self, words: list[str]) -> None:
        match words:
            case ['arm', uuid, seconds]:
                self._armed[uuid] = (time.monotonic() + float(seconds),
                                     threading.Event())
            case ['disarm', uuid] if uuid in self._armed:
                self._armed.pop(uuid)[1].set()
        say(words[0])


def say(word: str) -> None:
    """Answer; nobody may be there to read it."""
    try:
        sys.stdout.write(f'{word}\n')
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> None:
    """Run the guard for the hypervisor named on the command line."""
    libvirt.registerErrorHandler(lambda _ctx, _err: None, None)
    guard = Guard(sys.argv[1], sys.stdin.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, guard.hurry)
    guard.run()


if __name__ == '__main__':
    main()
