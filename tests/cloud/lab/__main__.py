# SPDX-License-Identifier: Apache-2.0
"""``tools/cloud up|down|status|shell``: a cloud to look at and try.

The cloud belongs to a keeper, a process in the background; whatever
happens to the cloud is done by it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
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
from tests.cloud.lab.project import Project
from tests.cloud.lab.settings import FOLDER
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.settings import VENV
from tests.functional.lab import waiting

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
    log = beside(folder, 'log')
    if keeper(folder) is None:
        beside(folder, 'ready').unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, 'wb') as output:
            child = subprocess.Popen(
                [sys.executable, '-m', 'tests.cloud.lab', '--folder', folder,
                 'keep'], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
                env=os.environ | {'PYTHONUNBUFFERED': '1'})
        beside(folder, 'pid').write_text(str(child.pid))
    shown = ''
    for _ in moments(UP_DEADLINE):
        text = log.read_text()
        print(text.removeprefix(shown), end='', flush=True)
        shown = text
        if beside(folder, 'ready').exists():
            print('it runs; try: tools/cloud shell openstack volume list')
            return 0
        if keeper(folder) is None:
            raise KeeperEnded(log)
    raise KeeperEnded(log)


def keep(folder: Path) -> int:
    """Be the keeper: hold the cloud until SIGTERM."""
    # Ends clean however early it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cloud = Cloud(Settings.fresh(folder), print)
    try:
        cloud.up()
        project = Project(cloud.api)
        print(f'image {project.image()}, flavor {project.flavor()}')
        beside(folder, 'ready').touch()
        while True:
            signal.pause()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        beside(folder, 'ready').unlink(missing_ok=True)
        cloud.down()
        beside(folder, 'pid').unlink()


def keeper(folder: Path) -> int | None:
    """Process id of a cloud's keeper, if it lives."""
    try:
        pid = int(beside(folder, 'pid').read_text())
        words = Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    ours = str(folder).encode() in words and b'keep' in words
    return pid if ours and state.split()[0] != 'Z' else None


def beside(folder: Path, what: str) -> Path:
    """A file of the keeper; the folder itself is the cloud's."""
    return folder.with_name(f'{folder.name}.{what}')


def moments(seconds: float) -> Iterator[float]:
    """A few times a second, until so many have passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield time.monotonic()
        time.sleep(0.2)


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
