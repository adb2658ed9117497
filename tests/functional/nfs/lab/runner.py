# SPDX-License-Identifier: Apache-2.0
"""Runs in a client as root: starts what the test asks for, as any user.

A request is a line of JSON on standard input, an answer one on descriptor 3.
Every job is a process forked from this one, so the modules that all of them
need are loaded once.  A job cannot become root again.
"""

from __future__ import annotations

from collections.abc import Mapping
import ctypes
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import traceback
from typing import Any

from assisted_snapshots.chain import operations
from tests.functional.nfs.lab import line as to_test

PR_SET_NO_NEW_PRIVS = 38
#: Loaded once for all jobs.
LOADED = (operations,)


def main() -> None:
    """Serve until the test ends."""
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    jobs: dict[int, Job] = {}
    rest = b''
    answer({'ready': True})
    while True:
        for key, _ in selector.select():
            if isinstance(key.data, Job):
                if not key.data.relay():
                    # Before it is closed: jobs forked meanwhile hold it
                    # too, and so epoll would go on to tell of it.
                    selector.unregister(key.fileobj)
                    del jobs[key.data.number]
                    key.data.end()
                continue
            *lines, rest = (rest + os.read(0, 65536)).split(b'\n')
            for text in lines:
                request = json.loads(text)
                if 'do' in request:
                    job = jobs[request['id']] = Job(request)
                    selector.register(job.line, selectors.EVENT_READ, job)
                elif request['id'] in jobs:
                    jobs[request['id']].order(request)


class Job:
    """One function call in a process of its own."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.number = request['id']
        self.line, theirs = socket.socketpair()
        self._rest = b''
        self._pid = os.fork()
        if self._pid == 0:
            self.line.close()
            to_test.conversation = theirs
            run(request, theirs)
        theirs.close()

    def order(self, request: Mapping[str, Any]) -> None:
        """Do what the test wants of a running job."""
        if request.get('signal'):
            os.kill(self._pid, request['signal'])
        else:
            self.line.sendall(b'.')

    def relay(self) -> bool:
        """Hand on what it says; False at its end."""
        try:
            text = self.line.recv(1 << 20)
        except ConnectionResetError:
            text = b''
        *lines, self._rest = (self._rest + text).split(b'\n')
        for found in lines:
            answer({'id': self.number, **json.loads(found)})
        return bool(text)

    def end(self) -> None:
        """Tell the test that it has ended."""
        self.line.close()
        _, status = os.waitpid(self._pid, 0)
        answer({'id': self.number,
                'ended': os.waitstatus_to_exitcode(status)})


def run(request: Mapping[str, Any], line: socket.socket) -> None:
    """Be the job; never returns."""
    try:
        become(request)
        module, _, name = request['do'].partition(':')
        function = getattr(importlib.import_module(module), name)
        told = {'value': function(*request['args'], **request['kwargs'])}
    except BaseException as exc:
        told = {'error': type(exc).__name__, 'text': str(exc),
                'trace': traceback.format_exc()}
    line.sendall(json.dumps(told).encode() + b'\n')
    os._exit(0)


def become(request: Mapping[str, Any]) -> None:
    """Be the user that the request names, for good."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(3)
    os.umask(request['umask'])
    os.environ |= {'HOME': '/tmp', 'USER': 'ordinary', 'LOGNAME': 'ordinary'}
    if request['uid']:
        os.setgroups(request['groups'])
        os.setgid(request['gid'])
        os.setuid(request['uid'])
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def mount(source: str, folder: str, options: str) -> None:
    """Mount an export; for root."""
    os.makedirs(folder, exist_ok=True)
    subprocess.run(['mount', '-t', 'nfs4', '-o', options, source, folder],
                   check=True)


def unmount(folder: str) -> None:
    """Unmount it, whatever is open there; for root."""
    subprocess.run(['umount', '-f', '-l', folder], check=True)


def answer(what: object) -> None:
    """Write one line to the test."""
    text = json.dumps(what).encode() + b'\n'
    while text:
        text = text[os.write(3, text):]


if __name__ == '__main__':
    main()
