# SPDX-License-Identifier: Apache-2.0
"""Which guests have a volume, seen on libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import threading

import pytest

from assisted_snapshots.agent.hypervisor import Hypervisor

GUEST = """
<domain type='test'><name>{name}</name><memory>1024</memory>
<os><type>hvm</type></os><devices><disk type='file' device='disk'>
<source file='/srv/share/v'/><target dev='vda'/><serial>a</serial>
</disk></devices></domain>
"""


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[Hypervisor]:
    connected = threading.Event()
    found = Hypervisor('test:///default', lambda event: connected.set())
    found.start()
    assert connected.wait(10)
    yield found
    found.close()


def test_one_known_guest_does_not_hide_another(
        hypervisor: Hypervisor) -> None:
    """A job taken up at the start makes its own guest known."""
    with hypervisor.calling('defineXML') as conn:
        names = ('one', 'other')
        uuids = [conn.defineXML(GUEST.format(name=name)).UUIDString()
                 for name in names]
    hypervisor._on_connected()  # all that happened is forgotten
    hypervisor.domain(uuids[0])
    found = hypervisor.with_volume('a')
    assert sorted(domain.name for domain in found) == ['one', 'other']
    for uuid in uuids:
        with hypervisor.calling('undefine') as conn:
            conn.lookupByUUIDString(uuid).undefine()
    assert hypervisor.with_volume('a') == ()
