# SPDX-License-Identifier: Apache-2.0
"""A raw file that shows what a guest would see of a chain.

QEMU's storage daemon opens the layers, each with its pinned format, and
exports the uppermost one by FUSE over an empty file.  Whoever reads or
writes that file reads or writes the volume.

The daemon outlives the process that started it, so a restart of
cinder-volume does not break a backup.  It is found again by its own command
line, which names the mount, so there is no process id to go stale.  This
module must never let QEMU probe a format or follow a backing name that it
was not told, and never signal a process that is not such a daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
import errno
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess

from eventlet import patcher

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.value import Format

# The real one, whatever is patched: this runs in a real thread.
_select = patcher.original('select')

_PROGRAM = 'qemu-storage-daemon'
_FUSE = Path('/dev/fuse')

# A hostile image must not eat the host.
_LIMITS = (f'--as={8 << 30}',)

# Closing writes back what is in caches, which a slow share may delay.
_GRACE = 120.0


class ViewFailed(errors.ChainError):
    """A raw view could not be made."""

    message = '{mount}: qemu-storage-daemon failed ({status}): {stderr}'


class OthersDenied(ViewFailed):
    """The view cannot be shown to root, who will read it."""

    message = ('{mount}: FUSE does not let this user show the view to root, '
               'which Cinder reads it as: put "user_allow_other" into '
               '/etc/fuse.conf of this host, or set assisted_raw_views = '
               'staged')


class ViewLost(errors.ChainError):
    """A view that was written to ended on its own."""

    message = ('{mount}: qemu-storage-daemon ended before the view was '
               'closed; what was written last may be lost, so repeat what '
               'wrote it')


@dataclass(frozen=True, slots=True)
class Node:
    """A layer to be opened.

    :ivar path: where it is.
    :ivar format: its pinned format.
    """

    path: Path
    format: Format


def usable() -> bool:
    """Tell whether this host can have FUSE exports at all."""
    return (shutil.which(_PROGRAM) is not None
            and os.access(_FUSE, os.R_OK | os.W_OK))


def start(mount: Path, layers: Sequence[Node], *, writable: bool,
          others: bool) -> None:
    """Show a chain as one raw file; returns when it is there.

    :param mount: an empty file that nothing is mounted on.
    :param layers: base first.
    :param others: users other than this one must be able to open it.
    :raises ViewFailed: with what QEMU said.
    """
    argv = ['prlimit', *_LIMITS, _PROGRAM, '--daemonize',
            '--pidfile', str(_pid_file(mount))]
    for number, layer in enumerate(layers):
        top = number == len(layers) - 1
        argv += ['--blockdev', _blockdev(number, layer, top and writable)]
    argv += ['--export', json.dumps({
        'type': 'fuse', 'id': 'view', 'mountpoint': str(mount),
        'node-name': f'layer{len(layers) - 1}', 'writable': writable,
        'growable': False, 'allow-other': 'on' if others else 'auto'})]
    # The daemon keeps what it inherits, so its complaints go to memory.
    with open(os.memfd_create('stderr'), 'w+b') as complaints:
        status = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=complaints, cwd='/', env={**os.environ, 'LC_ALL': 'C'},
            start_new_session=True, check=False).returncode
        complaints.seek(0)
        text = complaints.read(8192).decode(errors='replace').strip()
    if status:
        _pid_file(mount).unlink(missing_ok=True)
        kind = OthersDenied if 'allow_other' in text else ViewFailed
        raise kind(mount=mount, status=status, stderr=text)


def alive(mount: Path) -> bool:
    """Tell whether a daemon shows something there."""
    fd = _find(mount)
    if fd is None:
        return False
    os.close(fd)
    return True


def stop(mount: Path) -> None:
    """End the daemon of a mount, if there is one, and the mount.

    It writes back what it holds, and lets go of the layers.
    """
    fd = _find(mount)
    if fd is not None:
        try:
            _end(fd)
        finally:
            os.close(fd)
    if _mounted(mount):
        # A daemon that was killed leaves its mount behind.
        subprocess.run(['fusermount3', '-u', '-z', str(mount)],
                       stdin=subprocess.DEVNULL, capture_output=True,
                       check=False)
    _pid_file(mount).unlink(missing_ok=True)


def flush(mount: Path) -> None:
    """Make what was written to a view durable, and see that it is.

    :raises ViewLost: nobody is there to do it.
    """
    try:
        fd = os.open(mount, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        if exc.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise ViewLost(mount=mount) from exc
        raise
    if not alive(mount):
        raise ViewLost(mount=mount)


def _end(fd: int) -> None:
    """Ask a daemon to end, and wait until it has."""
    for number, patience in ((signal.SIGTERM, _GRACE),
                             (signal.SIGKILL, _GRACE)):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
        ended = _select.poll()
        ended.register(fd, _select.POLLIN)
        if ended.poll(patience * 1000):
            return


def _find(mount: Path) -> int | None:
    """Return a process descriptor of the daemon of a mount."""
    for entry in os.listdir('/proc'):
        if not entry.isdecimal():
            continue
        if not _is_daemon(entry, mount):
            continue
        try:
            fd = os.pidfd_open(int(entry))
        except ProcessLookupError:
            continue
        if _is_daemon(entry, mount):  # still the same process
            return fd
        os.close(fd)
    return None


def _is_daemon(process: str, mount: Path) -> bool:
    try:
        said = Path(f'/proc/{process}/cmdline').read_bytes().split(b'\0')
    except OSError:
        return False
    # A process that has ended but was not waited for has no command line.
    return (os.path.basename(said[0]) == _PROGRAM.encode()
            and os.fsencode(_pid_file(mount)) in said)


def _pid_file(mount: Path) -> Path:
    return mount.with_name(mount.name + '.pid')


def _mounted(mount: Path) -> bool:
    """Tell whether the path is a mount point, even one that is dead."""
    wanted = os.fsencode(mount)
    for special in (b'\\', b' ', b'\t', b'\n'):  # as the kernel writes them
        wanted = wanted.replace(special, b'\\%03o' % ord(special))
    with open('/proc/self/mountinfo', 'rb') as file:
        return any(line.split()[4] == wanted for line in file)


def _blockdev(number: int, layer: Node, writable: bool) -> str:
    """Return one layer as the daemon's option."""
    node: dict[str, object] = {
        'node-name': f'layer{number}', 'driver': str(layer.format),
        'read-only': not writable, 'file': {
            'driver': 'file', 'filename': str(layer.path),
            'read-only': not writable}}
    if layer.format is Format.QCOW2:
        # None says: there is nothing below, whatever the header says.
        node['backing'] = f'layer{number - 1}' if number else None
    return json.dumps(node)
