# SPDX-License-Identifier: Apache-2.0
"""``tools/cloud up|down|status|shell``: a cloud to look at and try.

The cloud belongs to a keeper, a process in the background; whatever
happens to the cloud is done by it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from tests.cloud.lab import process
from tests.cloud.lab.api import Api
from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.settings import FOLDER
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.settings import VENV
from tests.functional.lab import waiting

#: What the keeper writes when the cloud is ready.
READY = 'ready'
UP_DEADLINE = 1200
DOWN_DEADLINE = 120


class KeeperEnded(Exception):
    """The cloud could not be started."""

    message = 'the cloud did not start; the end of {log}:\n{tail}'

    def __init__(self, log: Path) -> None:
        tail = log.read_text(errors='replace')[-3000:]
        super().__init__(self.message.format(log=log, tail=tail))


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog='tools/cloud', description='A small OpenStack on this machine.')
    parser.add_argument('--folder', type=Path, default=FOLDER,
                        help='where it lives (%(default)s)')
    verbs = parser.add_subparsers(dest='verb', required=True)
    verbs.add_parser('up', help='start it, unless it runs')
    verbs.add_parser('down', help='end it and remove what it made')
    verbs.add_parser('status', help='say what runs')
    shell = verbs.add_parser(
        'shell', help='a shell (or a command) in it, with credentials')
    shell.add_argument('command', nargs=argparse.REMAINDER)
    verbs.add_parser('keep', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    folder = args.folder.resolve()
    if args.verb == 'shell':
        return enter(folder, args.command)
    verb = {'up': up, 'down': down, 'status': status, 'keep': keep}[args.verb]
    return verb(folder)


def up(folder: Path) -> int:
    """Start a keeper; show what it says until the cloud is ready."""
    if keeper(folder):
        print('it runs already')
        return 0
    log = folder.parent / f'{folder.name}.log'
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'wb') as output:
        child = subprocess.Popen(
            [sys.executable, '-m', 'tests.cloud.lab', '--folder', folder,
             'keep'], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=os.environ | {'PYTHONUNBUFFERED': '1'},
            start_new_session=True)
    shown = 0
    deadline = time.monotonic() + UP_DEADLINE
    while not (folder / READY).exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise KeeperEnded(log)
        text = log.read_text()
        print(text[shown:], end='', flush=True)
        shown = len(text)
        time.sleep(0.2)
    print(log.read_text()[shown:], end='')
    print('try: tools/cloud shell openstack volume list')
    return 0


def keep(folder: Path) -> int:
    """Be the keeper: hold the cloud until SIGTERM."""
    cloud = Cloud(Settings.fresh(folder), print)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cloud.up()
    try:
        (folder / 'keeper').write_text(str(os.getpid()))
        (folder / READY).touch()
        while True:
            signal.pause()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cloud.down()
        for name in ('keeper', READY):
            (folder / name).unlink()


def keeper(folder: Path) -> int | None:
    """Process id of the keeper of a cloud that runs."""
    try:
        pid = int((folder / 'keeper').read_text())
        words = Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')
    except (FileNotFoundError, ProcessLookupError):
        return None
    return pid if str(folder).encode() in words else None


def down(folder: Path) -> int:
    """End the keeper and whatever else is left."""
    pid = keeper(folder)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        waiting.until(lambda: keeper(folder) is None, 'end of the cloud',
                      DOWN_DEADLINE)
    process.clear(folder)
    print(f'it is down; its logs are in {folder}')
    return 0


def status(folder: Path) -> int:
    """Say what every service says of itself."""
    if keeper(folder) is None:
        print('it is down')
        return 1
    settings = Settings.load(folder)
    api = Api(settings)
    for service in (api.compute, api.volume):
        for one in service.get('/os-services')['services']:
            print(f'{one["binary"]:<18}{one["host"]:<18}{one["state"]}')
    print(f'Keystone    {settings.auth_url}\nshare       {settings.share}\n'
          f'logs        {settings.log}')
    return 0


def enter(folder: Path, command: Sequence[str]) -> int:
    """Run a command, or a shell, with the cloud's mounts and credentials."""
    pid = keeper(folder)
    if pid is None:
        print('it is down; tools/cloud up starts it', file=sys.stderr)
        return 1
    settings = Settings.load(folder)
    path = f'{VENV}/bin:{os.environ["PATH"]}'
    words = command or [os.environ.get('SHELL', '/bin/sh')]
    return subprocess.run(
        ['nsenter', '--mount', '--target', str(pid), f'--wd={Path.cwd()}',
         '--', *words], check=False,
        env=os.environ | settings.credentials | {'PATH': path}).returncode


if __name__ == '__main__':
    sys.exit(main())
