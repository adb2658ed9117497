# SPDX-License-Identifier: Apache-2.0
"""A real QEMU with one disk, as the guest's side of operations.

Its processor never runs: what a guest would write, the test writes through
the monitor.  Small enough to be killed and started at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import json
import os
import socket
import subprocess
from typing import Any

from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.chain.guest import NOT_MOVED
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import Write

_DEVICE = '/machine/peripheral/disk/virtio-backend'
_JOB = 'merge'


class Gone(Exception):
    """QEMU has ended."""


class Qemu:
    """A QEMU process that has a volume's disk, and its monitor."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                ['qemu-system-x86_64', '-machine', 'pc,accel=tcg', '-m', '16',
                 '-nodefaults', '-display', 'none', '-S', '-chardev',
                 f'socket,id=m,fd={theirs.fileno()}', '-mon',
                 'chardev=m,mode=control'],
                cwd=disk.files.folder, stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),))
        self._socket = ours
        self._lines = ours.makefile('r')
        self._events: list[dict[str, Any]] = []
        json.loads(self._lines.readline())
        self.command('qmp_capabilities')
        layers = disk.operations().state().chain.names
        for depth, name in enumerate(layers):
            self.add(name, layers[depth - 1] if depth else None,
                     fixed=name != layers[-1])
        self.command('device_add', driver='virtio-blk-pci', id='disk',
                     drive=layers[-1])

    @property
    def layers(self) -> tuple[str, ...] | None:
        """The live chain, as QEMU itself tells it."""
        try:
            found = self.command('query-block')[0]['inserted']['image']
        except Gone:
            return None
        names = []
        while found:
            names.append(os.path.basename(found['filename']))
            found = found.get('backing-image')
        return tuple(reversed(names))

    def add(self, name: str, below: str | None,
            fixed: bool = False) -> None:
        """Open a layer on top of another one; only the active is written."""
        form = self._disk.formats.get(name, 'qcow2')
        node: dict[str, Any] = {
            'driver': form, 'node-name': name, 'read-only': fixed,
            'file': {'driver': 'file', 'filename': name}}
        if form == 'qcow2':
            node['backing'] = below
        self.command('blockdev-add', **node)

    def write(self, *writes: Write) -> None:
        """Write as the guest; it is acknowledged, but not flushed."""
        for offset, length, byte in writes:
            self._disk.now[offset:offset + length] = bytes([byte]) * length
            self.io(f'write -P {byte} {offset} {length}')

    def io(self, what: str, node: str = '') -> None:
        """Run a command of qemu-io on the disk, or on a node."""
        place = node or f'-d {_DEVICE}'
        answer = self.command('human-monitor-command', **{
            'command-line': f'qemu-io {place} "{what}"'})
        assert 'failed' not in answer and 'rror' not in answer, answer

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a command of the monitor."""
        try:
            self._socket.sendall(json.dumps(
                {'execute': name, 'arguments': arguments}).encode() + b'\n')
        except OSError as exc:
            raise Gone from exc
        for message in self._messages():
            if 'return' in message:
                return message['return']
            assert 'error' not in message, message
            self._events.append(message)
        raise Gone

    def wait(self, event: str) -> dict[str, Any]:
        """Return the next event of a kind."""
        while True:
            for known in self._events:
                if known['event'] == event:
                    self._events.remove(known)
                    return known
            message = next(self._messages(), None)
            if message is None:
                raise Gone
            self._events.append(message)

    def kill(self) -> None:
        """Kill it; nothing is flushed."""
        self._process.kill()
        self._process.wait()

    def quit(self) -> None:
        """End it as a guest's shutdown would."""
        if self._process.poll() is None:
            self.command('quit')
            self._process.wait()

    def _messages(self) -> Iterator[dict[str, Any]]:
        try:
            while line := self._lines.readline():
                yield json.loads(line)
        except OSError:
            return


class QemuGuest:
    """Does with QEMU's monitor what the agent does through libvirt.

    :ivar when: called with what has just happened; it may kill QEMU, or
        raise as if the caller had died or the answer had been lost.
    """

    def __init__(self, qemu: Qemu) -> None:
        self.qemu = qemu
        self.when: Callable[[str], None] = lambda _moment: None
        self.commits = True
        self.asked: list[str] = []
        self._pivoting = False

    def chain(self, volume_id: str) -> tuple[str, ...] | None:
        assert volume_id == '1'
        return self.qemu.layers

    def can_commit(self, volume_id: str) -> tuple[bool, str]:
        return self.commits, '' if self.commits else 'update libvirt'

    def create(self, volume_id: str, snapshot_id: str, new_file: str,
               quiesce: str) -> str:
        self.asked.append(f'create {snapshot_id}')
        live = self.qemu.layers
        try:
            if live is None:
                raise Gone
            if live[-1] != new_file:
                self.when('before the switch')
                self.qemu.add(new_file, None)
                self.qemu.command('blockdev-snapshot', node=live[-1],
                                  overlay=new_file)
            self.when('after the switch')
        except Gone:
            raise GuestFailed(volume=volume_id, code='volume-not-found',
                              reason='no guest has it') from None
        return 'crash-consistent'

    def merge(self, volume_id: str, subject: str, kind: str,
              before: tuple[str, ...], merged: tuple[str, ...],
              survivor: str) -> None:
        self.asked.append(f'{kind} {subject}')
        after = tuple(name for name in before
                      if name not in merged or name == survivor)
        try:
            if self.qemu.layers is None:
                raise Gone
            if self.qemu.layers == before:
                self.when('before the job')
                self._job(before, merged, survivor)
                self.qemu.wait('BLOCK_JOB_COMPLETED')
                self.when('after the job')
            if self.qemu.layers is None:
                raise Gone
            assert self.qemu.layers == after
            self.qemu.io('flush', node=survivor)
            self.when('after the flush')
        except Gone:
            raise GuestFailed(
                volume=volume_id, reason='QEMU has ended',
                code='chain-mismatch' if self._pivoting else NOT_MOVED,
            ) from None

    def extend(self, volume_id: str, size: int) -> None:
        self.asked.append(f'extend {size}')
        live = self.qemu.layers
        try:
            if live is None:
                raise Gone
            self.when('before the resize')
            self.qemu.command('block_resize', size=size,
                              **{'node-name': live[-1]})
            self.when('after the resize')
        except Gone:
            raise GuestFailed(volume=volume_id, code='volume-not-found',
                              reason='no guest has it') from None

    def _job(self, before: tuple[str, ...], merged: tuple[str, ...],
             survivor: str) -> None:
        active, command = before[-1], self.qemu.command
        if survivor == merged[-1]:
            at = before.index(merged[0])
            below = ({'base-node': before[at - 1],
                      'backing-file': before[at - 1]} if at else {})
            command('block-stream', **{'job-id': _JOB, 'device': active,
                                       'speed': CLUSTER, **below})
            self._let_go()
        elif merged[-1] != active:
            command('block-commit', **{
                'job-id': _JOB, 'device': active, 'top-node': merged[-1],
                'base-node': survivor, 'backing-file': survivor,
                'speed': CLUSTER})
            self._let_go()
        else:
            command('block-commit', **{
                'job-id': _JOB, 'device': active, 'base-node': survivor})
            self.qemu.wait('BLOCK_JOB_READY')
            self.when('in the job')
            self._pivoting = True
            command('block-job-complete', device=_JOB)

    def _let_go(self) -> None:
        """Let a job that has begun, and was held, come to its end."""
        self.when('in the job')
        self.qemu.command('block-job-set-speed', device=_JOB, speed=0)
