# SPDX-License-Identifier: Apache-2.0
"""A network of its own for a server and its clients.

A namespace held open by one small process; it ends with the end of its
standard input, so also if the tests are killed.
"""

from __future__ import annotations

import subprocess

#: Where the server listens; a client's address ends in its number.
SERVER = '10.99.0.1'
CLIENTS = 3

_MAKE = '''\
PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
ip link add bridge type bridge
ip address add "$1/24" dev bridge
ip link set bridge up
for i in $(seq "$2"); do
    ip tuntap add dev "tap$i" mode tap
    ip link set "tap$i" master bridge up
done
echo ready
exec cat
'''


class Network:
    """A namespace with a bridge and a tap device for every client."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ['unshare', '--net', 'sh', '-ec', _MAKE, 'sh', SERVER,
             str(CLIENTS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b'ready\n', \
            'no network namespace: the tests of NFS need root'

    def enter(self) -> list[str]:
        """What to put before a command that shall run inside.

        It is killed when the tests end, however they end.
        """
        return ['nsenter', f'--net=/proc/{self._holder.pid}/ns/net', '--',
                'setpriv', '--pdeathsig', 'KILL', '--']

    def close(self) -> None:
        """Let it go; it vanishes with the last process inside."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()
