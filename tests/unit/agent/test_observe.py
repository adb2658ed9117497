# SPDX-License-Identifier: Apache-2.0
"""What is seen of a guest, on libvirt's own test driver."""

from __future__ import annotations

from pathlib import Path
import threading

from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.decide import Presence
from assisted_snapshots.agent.hypervisor import Hypervisor
from assisted_snapshots.agent.observe import Observer
from assisted_snapshots.agent.record import Record
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest

GUEST = """
<domain type='test'><name>off</name><memory>1024</memory>
<os><type>hvm</type></os><devices><disk type='file' device='disk'>
<driver type='qcow2'/><source file='{folder}/v.1'/><target dev='vda'/>
<serial>a</serial></disk></devices></domain>
"""


def test_layer_of_a_guest_that_is_off_is_broken(tmp_path: Path) -> None:
    """As a crash of QEMU may leave it: it is told, not raised."""
    (tmp_path / 'v').write_bytes(bytes(1 << 20))
    (tmp_path / 'v.1').write_bytes(b'QFI\xfb')
    connected = threading.Event()
    hypervisor = Hypervisor('test:///default', lambda event: connected.set())
    hypervisor.start()
    assert connected.wait(10)
    with hypervisor.calling('defineXML') as conn:
        uuid = conn.defineXML(GUEST.format(folder=tmp_path)).UUIDString()
    request = MergeRequest(Kind.DELETE, 'a', '1', ('v', 'v.1'),
                           ('v', 'v.1'), 'v')
    seen = Observer(hypervisor).look(Task(Record(
        'job', request, uuid, 'off', 'vda', {'a': str(tmp_path)},
        {'a': ('v', 'v.1')})), True).seen
    hypervisor.close()
    assert seen.presence is Presence.OFF
    assert 'v.1' in str(seen.unread)
