# SPDX-License-Identifier: Apache-2.0
"""The life of an encrypted volume: what a plain one can, nothing in clear.

Each layer is a qcow2 with LUKS; Nova gives libvirt the passphrase, and the
driver and the agent have it from the key manager when they need it.
"""

from __future__ import annotations

import hashlib
import struct

import pytest

from tests.cloud.lab import growth
from tests.cloud.lab.project import Project
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.stage import BLOCKS
from tests.cloud.lab.stage import Stage
from tests.functional.lab import audit
from tests.functional.lab import content
from tests.functional.lab import images
from tests.functional.lab.share import GIB

pytestmark = [pytest.mark.timeout(1200), pytest.mark.cloud('hooks')]


def test_life_of_a_volume(encrypted: Stage) -> None:
    stage = encrypted
    oldest, middle, newest = (stage.take() for _ in range(3))
    again_in_a_new_qemu(stage)
    nothing_in_clear(stage)
    stage.delete(middle)
    growth.extend(stage, 2)
    assert growth.sizes(stage) == [1, 1, 2]
    stage.delete(newest)
    stage.volume_from(oldest)
    stage.delete(oldest)
    stage.delete(stage.take())
    assert growth.sizes(stage) == [2]
    again_in_a_new_qemu(stage)
    assert growth.seen(stage) == 2 * GIB
    nothing_in_clear(stage)


def test_second_server_from_a_snapshot(encrypted: Stage) -> None:
    """On the other host, in whose guest it shows the snapshot's content."""
    stage = encrypted
    snapshot = stage.take()
    made = stage.project.volume(snapshot_id=snapshot)
    last = content.prove(stage.files.folder / f'volume-{made}', 'qcow2',
                         stage.writer.pattern, stage.snapshots[snapshot],
                         secret=stage.files.secret)
    second = Server.boot(stage.project, stage.settings, HOSTS[1], made)
    assert shown(second, made) == expected(stage.writer.pattern, last)
    stage.project.delete_server(second.id)
    stage.project.delete_volume(made)
    stage.delete(snapshot)


def test_live_migration(encrypted: Stage) -> None:
    """Each host has the passphrase in a secret of its own."""
    oldest, newest = encrypted.take(), encrypted.take()
    encrypted.server.migrate_live(HOSTS[1])
    encrypted.settled()
    encrypted.delete(oldest)
    there = encrypted.take()
    encrypted.server.migrate_live(HOSTS[0])
    encrypted.settled()
    for snapshot in (there, newest):
        encrypted.delete(snapshot)


@pytest.mark.cloud('released')
@pytest.mark.logs('LUKS header over')
def test_nova_as_released_does_not_get_it(
        settings: Settings, project: Project, server: Server) -> None:
    """It would format it; nothing happens to it."""
    volume = project.volume(volume_type=project.encrypted_type())
    path = settings.share / f'volume-{volume}'
    before = path.read_bytes()
    project.request_attachment(server.id, volume)
    project.volume_becomes(volume, 'available')
    assert path.read_bytes() == before
    project.delete_volume(volume)


def again_in_a_new_qemu(stage: Stage) -> None:
    """Reboot the server hard; its guest goes on."""
    last = stage.stop()
    stage.server.reboot()
    stage.go_on(last)
    stage.settled()


def shown(server: Server, volume: str) -> str:
    """Digest of what a guest reads where the writer writes."""
    return server.run(
        f'dd if={server.device(volume)} bs={content.RECORD} count={BLOCKS} '
        '2>/dev/null | busybox sha1sum').split()[0]


def expected(pattern: content.Pattern, last: int) -> str:
    """Digest of what that is after a record."""
    digest = hashlib.sha1(usedforsecurity=False)
    for block in range(pattern.blocks):
        number = pattern.expected(block, last)
        digest.update(pattern.record(number) if number
                      else bytes(content.RECORD))
    return digest.hexdigest()


def nothing_in_clear(stage: Stage) -> None:
    """No layer holds a record as the guest has written it."""
    for layer in images.chain(stage.files.active, 'qcow2'):
        assert layer['encrypted']
    mark = struct.pack('<Q', content.MAGIC)
    for name in audit.layers(stage.files):
        assert mark not in (stage.files.folder / name).read_bytes()
