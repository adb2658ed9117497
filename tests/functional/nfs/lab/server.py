# SPDX-License-Identifier: Apache-2.0
"""nfs-ganesha, exporting one folder to a network of the tests' own.

Version 4 only, so nothing else is needed: no rpcbind, no mountd, no statd.
What a restart needs (who held locks) is kept in the server's own folder.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
import tempfile

from tests.functional.lab import waiting
from tests.functional.nfs.lab.network import Network
from tests.functional.nfs.lab.network import SERVER

#: Seconds after which the locks of a client that is gone are released.
LEASE = 30
NOBODY = 65534

_CONF = '''\
NFS_CORE_PARAM {{
    Bind_addr = {address}; NFS_Port = 2049; Protocols = 4;
    Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
    fsid_device = true;
}}
NFSV4 {{
    RecoveryRoot = "{state}/recovery";
    Lease_Lifetime = {lease}; Grace_Period = {lease};
    Minor_Versions = 1, 2;
    Allow_Numeric_Owners = true; Only_Numeric_Owners = true;
}}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT {{
    Export_Id = 1; Path = "{folder}"; Pseudo = "/share";
    Access_Type = RW; Squash = {squash};
    Protocols = 4; Transports = TCP; SecType = sys;
    Anonymous_Uid = {nobody}; Anonymous_Gid = {nobody};
    FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
'''


class Server:
    """One NFS server.

    :ivar folder: what it exports, as this machine sees it.
    :ivar root: its state and its log.
    """

    def __init__(self, network: Network, folder: Path, *,
                 squash: str = 'root_squash', lease: int = LEASE) -> None:
        self.folder = folder
        self.root = Path(tempfile.mkdtemp(prefix='lab-ganesha-'))
        self.log = self.root / 'log'
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None
        (self.root / 'recovery').mkdir()
        (self.root / 'ganesha.conf').write_text(_CONF.format(
            address=SERVER, state=self.root, lease=lease, folder=folder,
            squash=squash, nobody=NOBODY))

    def export(self, name: str) -> str:
        """What a client mounts to see one folder in :attr:`folder`."""
        return f'{SERVER}:/share/{name}'

    def start(self) -> None:
        """Start it and wait until it serves, or grants a grace period."""
        self.log.unlink(missing_ok=True)
        with open(self.root / 'out', 'ab') as output:
            self._process = subprocess.Popen(
                [*self._network.enter(), 'ganesha.nfsd', '-F',
                 '-f', self.root / 'ganesha.conf', '-L', self.log,
                 '-p', self.root / 'pid'],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env=os.environ | {'PATH': os.environ['PATH'] + ':/usr/sbin'})
        waiting.until(self._serves, 'the NFS server serving', 30)

    def suspend(self) -> None:
        """Hang: it answers nothing, and forgets nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after :meth:`suspend`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL it."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def check(self) -> None:
        """See that it has not died of itself; its clients would wait."""
        assert self._process is not None
        assert self._process.poll() is None, \
            f'the NFS server ended, see {self.root}'

    def close(self) -> None:
        """End it and its state."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.root)

    def _serves(self) -> bool:
        self.check()
        return (self.log.exists()
                and 'NFS SERVER INITIALIZED' in self.log.read_text())

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, 'the NFS server is not running'
        self._process.send_signal(number)
