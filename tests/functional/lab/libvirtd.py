# SPDX-License-Identifier: Apache-2.0
"""A private libvirtd: own sockets, own state, own guests.

As root it runs in its own mount namespace and is a system daemon
(``qemu:///system``); else it is a session daemon of the current user.
Guests outlive a kill of libvirtd, as they do on a real host; :meth:`stop`
ends those that are left, by their process ids.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
import tempfile

import libvirt

from tests.functional.lab import guest_image
from tests.functional.lab import namespace
from tests.functional.lab import paths
from tests.functional.lab import waiting

#: What libvirtd finds under our root instead of the machine's own.
MOUNTS = {'etc': '/etc/libvirt', 'run': '/run/libvirt',
          'lib': '/var/lib/libvirt', 'log': '/var/log/libvirt'}
CACHE = '/var/cache/libvirt'
DAEMON_CONF = '''\
listen_tls = 0
listen_tcp = 0
unix_sock_dir = "{root}/sock"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "{level}:file:{root}/log/libvirtd.log"
log_level = {level}
keepalive_interval = 5
'''
QEMU_CONF = '''\
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
lock_manager = "nop"
'''
QEMU_CONF_ROOT = '''\
user = "root"
group = "root"
'''
# Where no guest boots with KVM it is hidden: libvirt would spend seconds on
# probing it, again and again, and believe in it.  Root may open anything, so
# what hides it is a file that nobody can write to.
ENTER = '''\
set -e
if [ -n "$HIDDEN" ]; then
    mount --bind "$HIDDEN" /dev/kvm
    mount -o remount,bind,ro /dev/kvm
fi
for pair in "$@"; do
    mkdir -p "${pair#*:}"
    mount --bind "${pair%%:*}" "${pair#*:}"
done
exec libvirtd --config "$CONFIG" --pid-file "$PIDFILE"
'''

# Errors are raised; libvirt's own copy on stderr would only repeat them.
libvirt.registerErrorHandler(lambda *_: None, None)


class Libvirtd:
    """One libvirtd and the guests it started.

    :ivar root: folder of all its state; its log is ``log/libvirtd.log``.
    :ivar uri: for any client on this machine.
    """

    def __init__(self, log_level: int = 3) -> None:
        # Short: it holds sockets, whose paths are limited.
        self.root = Path(tempfile.mkdtemp(prefix='lab-libvirt-'))
        mode = 'system' if namespace.privileged() else 'session'
        self.uri = f'qemu+unix:///{mode}?socket={self.root}/sock/libvirt-sock'
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: libvirt.virConnect | None = None
        self._configure(log_level)

    @property
    def log(self) -> Path:
        """libvirtd's log; those of the guests are next to it."""
        return self.root / 'log'

    @property
    def pid(self) -> int:
        """Process id of the running daemon."""
        assert self._process is not None, 'libvirtd is not running'
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the daemon is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        namespace.enter()
        with open(self.log / 'daemon.out', 'ab') as output:
            self._process = subprocess.Popen(
                self._command(), env=self._environment(), stdout=output,
                stderr=output, stdin=subprocess.DEVNULL,
                start_new_session=True)
        waiting.until(self._answers, 'libvirtd answering', 30)

    def stop(self) -> None:
        """End the daemon, its guests and its state."""
        self.kill()
        for pid in self._guest_pids():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root)

    def terminate(self) -> None:
        """End the daemon cleanly; guests go on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL the daemon; guests go on."""
        self._end(signal.SIGKILL)

    def connect(self) -> libvirt.virConnect:
        """A connection of the caller's own."""
        return libvirt.open(self.uri)

    @property
    def connection(self) -> libvirt.virConnect:
        """The laboratory's connection, made again after a restart."""
        if self._connection is None or not alive(self._connection):
            self._connection = self.connect()
        return self._connection

    def guest_pid(self, name: str) -> int:
        """Process id of a guest's QEMU."""
        return int(self._pid_file(name).read_text())

    def set_secret(self, uuid: str, usage: str, value: bytes) -> None:
        """Make a secret known, as Nova does for an encrypted volume."""
        secret = self.connection.secretDefineXML(
            f"<secret ephemeral='no' private='no'><uuid>{uuid}</uuid>"
            f"<usage type='volume'><volume>{usage}</volume></usage>"
            f"</secret>")
        secret.setValue(value)

    def remove_secret(self, uuid: str) -> None:
        """Undo :meth:`set_secret`."""
        self.connection.secretLookupByUUIDString(uuid).undefine()

    def _configure(self, level: int) -> None:
        for name in (*MOUNTS, 'sock', 'etc/qemu'):
            (self.root / name).mkdir(exist_ok=True)
        paths.LIBVIRT_CACHE.mkdir(parents=True, exist_ok=True)
        (self.root / 'no-kvm').touch()
        (self.root / 'etc/libvirtd.conf').write_text(
            DAEMON_CONF.format(root=self.root, level=level))
        (self.root / 'etc/qemu.conf').write_text(
            QEMU_CONF + (QEMU_CONF_ROOT if namespace.privileged() else ''))
        if not namespace.privileged():
            self._lay_out_session()

    def _lay_out_session(self) -> None:
        """Make a session daemon's folders look like a system daemon's."""
        ours = self.root / 'cache/libvirt/qemu'
        known = paths.LIBVIRT_CACHE / 'qemu'
        for folder in (self.root / 'config', ours / 'log', known):
            folder.mkdir(parents=True, exist_ok=True)
        (ours / 'cache').symlink_to(known)
        (self.log / 'qemu').symlink_to(ours / 'log')
        (self.root / 'config/libvirt').symlink_to(self.root / 'etc')

    def _command(self) -> list[str]:
        if not namespace.privileged():
            return ['libvirtd', '--config', f'{self.root}/etc/libvirtd.conf',
                    '--pid-file', f'{self.root}/libvirtd.pid']
        pairs = [f'{self.root}/{ours}:{theirs}'
                 for ours, theirs in MOUNTS.items()]
        return ['unshare', '--mount', '--propagation', 'slave', 'sh', '-c',
                ENTER, 'sh', *pairs, f'{paths.LIBVIRT_CACHE}:{CACHE}']

    def _environment(self) -> dict[str, str]:
        """No system bus: libvirtd must not reach the machine's services."""
        hide = (os.path.exists('/dev/kvm') and
                guest_image.accelerator(guest_image.build()) == 'tcg')
        ours = {'HIDDEN': f'{self.root}/no-kvm' if hide else '',
                'CONFIG': f'{self.root}/etc/libvirtd.conf',
                'PIDFILE': f'{self.root}/libvirtd.pid',
                'PATH': os.environ['PATH'] + ':/usr/sbin:/sbin',
                'DBUS_SYSTEM_BUS_ADDRESS': f'unix:path={self.root}/no-bus'}
        if not namespace.privileged():
            ours |= {'XDG_RUNTIME_DIR': f'{self.root}/run',
                     'XDG_CONFIG_HOME': f'{self.root}/config',
                     'XDG_DATA_HOME': f'{self.root}/lib',
                     'XDG_CACHE_HOME': f'{self.root}/cache'}
        return os.environ | ours

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(
                f'libvirtd ended: see {self.log}: '
                + (self.log / 'daemon.out').read_text()[-500:])
        try:
            self.connect().close()
        except libvirt.libvirtError:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def _pid_file(self, name: str) -> Path:
        folder = ('run/qemu' if namespace.privileged()
                  else 'run/libvirt/qemu/run')
        return self.root / folder / f'{name}.pid'

    def _guest_pids(self) -> list[int]:
        """QEMU processes that are still there, and are surely ours."""
        found = []
        for file in self._pid_file('x').parent.glob('*.pid'):
            pid = int(file.read_text() or 0)
            command = Path(f'/proc/{pid}/cmdline')
            if command.exists() and b'qemu' in command.read_bytes():
                found.append(pid)
        return found


def alive(connection: libvirt.virConnect) -> bool:
    """Tell whether somebody is at the other end of a connection."""
    try:
        connection.getLibVersion()
    except libvirt.libvirtError:
        return False
    return True
