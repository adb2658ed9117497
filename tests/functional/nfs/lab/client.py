# SPDX-License-Identifier: Apache-2.0
"""An NFS client: a User-mode Linux guest that runs functions of the tests.

Its kernel is its own, and so are its page, attribute and name caches, its
locks and its network address; its programs are the machine's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
import itertools
import json
import os
from pathlib import Path
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any
from typing import IO

from tests.functional.lab import paths
from tests.functional.nfs.lab.network import Network

#: Plain options, as an operator would leave them: all caches are on.
MOUNT_OPTIONS = 'vers=4.2,proto=tcp,hard,timeo=600'
DEADLINE = 200
_RUNNER = 'tests.functional.nfs.lab.runner'
_INIT = Path(__file__).with_name('init.sh')
_XSTATE = Path(__file__).with_name('xstate.c')


@dataclass(frozen=True)
class User:
    """Who a job runs as.

    :ivar groups: supplementary ones.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    umask: int = 0o022


ROOT = User(0, 0)


class Failed(AssertionError):
    """A job raised an error in its client.

    :ivar kind: the class of the error.
    """

    def __init__(self, kind: str, text: str, trace: str) -> None:
        super().__init__(f'{kind}: {text}\n{trace}')
        self.kind = kind
        self.text = text


class Job:
    """A function that runs in a client."""

    def __init__(self, client: Client, number: int) -> None:
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._client = client
        self._number = number

    def event(self, seconds: float = DEADLINE) -> Any:
        """What it tells or asks next."""
        found = self._next(seconds)
        assert 'event' in found, f'no event, but {found}'
        return found['event']

    def go_on(self) -> None:
        """Answer what it has asked."""
        self._client.send({'id': self._number})

    def go_until(self, what: Any) -> None:
        """Answer questions until it asks this one."""
        while self.event() != what:
            self.go_on()

    def finish(self, seconds: float = DEADLINE,
               meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Answer all that it asks; what it returned.

        :param meanwhile: done after each answer.
        """
        while 'event' in (found := self._next(seconds)):
            self.go_on()
            meanwhile()
        return self._returned(found)

    def kill(self) -> None:
        """SIGKILL it and wait for its end."""
        self._client.send({'id': self._number,
                           'signal': int(signal.SIGKILL)})
        while 'ended' not in self._next(DEADLINE):
            pass

    def result(self, seconds: float = DEADLINE) -> Any:
        """What it returned; events that nobody asked for are dropped.

        :raises Failed: it raised an error.
        """
        while 'event' in (found := self._next(seconds)):
            pass
        return self._returned(found)

    @staticmethod
    def _returned(found: dict[str, Any]) -> Any:
        if 'error' in found:
            raise Failed(found['error'], found['text'], found['trace'])
        assert 'value' in found, f'the job ended: {found}'
        return found['value']

    def _next(self, seconds: float) -> dict[str, Any]:
        try:
            return self.said.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(
                f'the client said nothing for {seconds} s, '
                f'see {self._client.log}') from None


def xstate() -> Path:
    """Compile what User-mode Linux lacks on newer processors."""
    source = _XSTATE.read_bytes()
    library = (paths.TMP / 'uml'
               / f'xstate-{hashlib.sha256(source).hexdigest()[:16]}.so')
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        aside = library.with_suffix(f'.{os.getpid()}')
        subprocess.run(['cc', '-O2', '-Wall', '-Wextra', '-Werror',
                        '-shared', '-fPIC', '-o', aside, _XSTATE], check=True)
        aside.rename(library)
    return library


class Client:
    """One guest."""

    def __init__(self, network: Network, number: int, *,
                 memory: str = '700M') -> None:
        self.log = Path(tempfile.mkdtemp(prefix=f'lab-uml{number}-'))
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._ready = threading.Event()
        down, self._to = os.pipe()
        from_, up = os.pipe()
        with open(self.log / 'console', 'wb') as console:
            self._process = subprocess.Popen(
                [*network.enter(), 'unshare', '--pid', '--fork',
                 '--kill-child', 'env', f'LD_PRELOAD={xstate()}', 'linux',
                 *self._kernel(number, memory), f'con1=fd:{down},fd:{up}'],
                env=os.environ | {'TMPDIR': '/dev/shm'},
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                pass_fds=(down, up))
        os.close(down)
        os.close(up)
        self._reader = threading.Thread(
            target=self._listen, args=(os.fdopen(from_, 'rb'),), daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not been killed."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until it has booted."""
        assert self._ready.wait(DEADLINE), \
            f'the client did not come up, see {self.log}'

    def mount(self, source: str, folder: str,
              options: str = MOUNT_OPTIONS) -> None:
        """Mount an export."""
        self.call(f'{_RUNNER}:mount', source, folder, options, user=ROOT)

    def unmount(self, folder: str) -> None:
        """Undo :meth:`mount`, also if the server is gone."""
        self.call(f'{_RUNNER}:unmount', folder, user=ROOT)

    def start(self, function: str, *args: Any, user: User,
              **kwargs: Any) -> Job:
        """Begin to run ``module:function``; arguments are plain JSON."""
        number = next(self._numbers)
        job = self._jobs[number] = Job(self, number)
        self.send({'id': number, 'do': function, 'args': args,
                   'kwargs': kwargs, 'uid': user.uid, 'gid': user.gid,
                   'groups': user.groups, 'umask': user.umask})
        return job

    def call(self, function: str, *args: Any, user: User,
             **kwargs: Any) -> Any:
        """Run ``module:function``; what it returned."""
        return self.start(function, *args, user=user, **kwargs).result()

    def send(self, what: object) -> None:
        """Write one line to its runner."""
        text = json.dumps(what).encode() + b'\n'
        while text:
            text = text[os.write(self._to, text):]

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.running:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            os.close(self._to)

    def close(self) -> None:
        """End it and its logs."""
        self.kill()
        shutil.rmtree(self.log)

    def _kernel(self, number: int, memory: str) -> list[str]:
        python = Path(sys.executable)
        return [f'mem={memory}', 'root=/dev/root', 'rootfstype=hostfs',
                'rootflags=/', 'ro', 'quiet', f'init={_INIT}',
                'con=null', 'con0=null,fd:1', f'umid=client{number}',
                f'uml_dir={self.log}/', f'lab_number={number}',
                f'lab_python={python}', f'lab_checkout={paths.CHECKOUT}',
                f'lab_log={self.log}',
                f'vec0:transport=tap,ifname=tap{number},depth=128,gro=1,'
                f'vec=1']

    def _listen(self, lines: IO[bytes]) -> None:
        with lines:
            for text in lines:
                said = json.loads(text)
                if 'id' in said:
                    self._jobs[said['id']].said.put(said)
                else:
                    self._ready.set()
