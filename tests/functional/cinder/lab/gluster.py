# SPDX-License-Identifier: Apache-2.0
"""A GlusterFS server with one volume, in namespaces of its own.

glusterd takes no loopback address for a brick, so it has a network namespace
with a device that leads nowhere; what mounts the volume enters that.  All of
its processes are in a process namespace that ends with its first process.
"""

from __future__ import annotations

from pathlib import Path
import subprocess

from tests.functional.lab import waiting

ADDRESS = '10.97.0.1'
VOLUME = 'volumes'
EXPORT = f'{ADDRESS}:/{VOLUME}'

_SERVER = r'''
set -eu
cd "$1"
ip link set lo up
ip tuntap add dev lab mode tap
ip address add "$2/24" dev lab
ip link set lab up
mkdir -p /run/gluster /var/log/glusterfs
mount -t tmpfs tmpfs /run
mkdir -p /run/gluster
mount --bind state /var/lib/glusterd
mount --bind log /var/log/glusterfs
glusterd --no-daemon --log-file=log/glusterd.log &
until gluster --mode=script peer status >/dev/null 2>&1; do sleep 0.1; done
gluster --mode=script volume create "$3" "$2:$1/brick" force
gluster --mode=script volume start "$3"
touch ready
wait
'''


class Gluster:
    """One server; stopped with everything it has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ('state', 'log', 'brick'):
            (folder / name).mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._mounted: list[Path] = []

    def start(self) -> None:
        """Start it and wait until its volume can be mounted."""
        with open(self.folder / 'server.log', 'wb') as log:
            self._process = subprocess.Popen(
                ['unshare', '--mount', '--net', '--pid', '--fork',
                 '--kill-child', '--mount-proc', 'sh', '-c', _SERVER, 'sh',
                 self.folder, ADDRESS, VOLUME], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)
        waiting.until(self._ready, 'the Gluster volume')

    def mount(self, point: Path) -> None:
        """Mount the volume for this process and its children."""
        point.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ['nsenter', f'--net=/proc/{self._inside()}/ns/net', 'mount',
             '-t', 'glusterfs', '-o',
             f'log-file={self.folder}/log/client.log', EXPORT, point],
            check=True)
        self._mounted.append(point)

    def stop(self) -> None:
        """End the mounts, then the server."""
        for point in self._mounted:
            subprocess.run(['umount', point], check=True)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (
            self.folder / 'server.log').read_text()
        return (self.folder / 'ready').exists()

    def _inside(self) -> str:
        """A process of its network namespace."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f'/proc/{pid}/task/{pid}/children').read_text()
        return children.split()[0]
