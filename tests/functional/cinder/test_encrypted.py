# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes: what plain ones can, and nothing in the clear.

Content is read by QEMU's tools with the passphrase, which upstream's rule
makes of the key.
"""

from __future__ import annotations

import binascii
from pathlib import Path
import subprocess
import threading
from typing import Any
from typing import TYPE_CHECKING

from castellan import key_manager
from cinder import exception
from oslo_config import cfg
import pytest

from tests.functional.cinder.lab import content
from tests.functional.cinder.lab import deployment
from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.keys import Keys
from tests.functional.lab import audit
from tests.functional.lab.agent import Agent
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.stage import Stage

if TYPE_CHECKING:
    from tests.functional.cinder.lab.world import World

CONF = cfg.CONF
MIB = 1 << 20
GIB = 1 << 30

pytestmark = pytest.mark.usefixtures('quick_stretching')


def header(path: Path) -> str:
    """What QEMU says of an image that it cannot decrypt."""
    return subprocess.run(['qemu-img', 'info', '-U', '-f', 'qcow2', path],
                          check=True, capture_output=True, text=True).stdout


def magic(path: Path) -> bytes:
    """Return how a file begins."""
    with path.open('rb') as file:
        return file.read(4)


def test_the_cipher_is_what_the_volume_type_says(cinder: World) -> None:
    volume = cinder.volume(encrypted=True)
    cinder.snapshot(volume)
    for name in cinder.names(volume):
        told = header(cinder.share / name)
        assert 'format: luks' in told
        assert 'cipher alg: aes-256' in told
        assert 'cipher mode: xts' in told
        assert 'ivgen alg: plain64' in told
    assert cinder.formats(volume) == {'format': 'qcow2',
                                      'base_format': 'qcow2'}


def test_a_cipher_with_a_hash(cinder: World) -> None:
    kind = cinder._type('cbc', provider='luks', cipher='aes-cbc-essiv:sha256',
                        key_size=256, control_location='front-end')
    row = cinder.row(encrypted=True)
    row.volume_type_id = kind.id
    row.save()
    volume = cinder.settle(
        row, cinder.driver.create_volume(cinder.fresh(row)))
    told = header(cinder.share / volume.name)
    assert 'ivgen alg: essiv' in told
    assert 'ivgen hash alg: sha256' in told
    assert 'cipher mode: cbc' in told


def test_a_type_that_is_no_luks_is_refused(cinder: World) -> None:
    odd = cinder._type('odd', provider='plain', cipher='aes-xts-plain64',
                       key_size=256, control_location='front-end')
    row = cinder.row(encrypted=True)
    row.volume_type_id = odd.id
    row.save()
    with pytest.raises(exception.VolumeDriverException, match='plain'):
        cinder.driver.create_volume(cinder.fresh(row))
    assert list(cinder.share.iterdir()) == []


@pytest.mark.parametrize('order', ['123', '321', '213'])
def test_delete_in_any_order(cinder: World, order: str) -> None:
    volume = cinder.volume(encrypted=True)
    taken, wanted = [], []
    for byte in (1, 2, 3):
        cinder.write(volume, byte, byte * MIB, 3 * MIB)
        wanted.append(cinder.content(volume))
        taken.append(cinder.snapshot(volume))
    cinder.write(volume, 9)
    now = cinder.content(volume)
    for number in map(int, order):
        cinder.delete(taken[number - 1])
        taken[number - 1] = None
        for snapshot, content_then in zip(taken, wanted, strict=True):
            if snapshot:
                assert cinder.snapshot_content(snapshot) == content_then
        assert cinder.content(volume) == now
        cinder.audit(volume, *filter(None, taken))
    cinder.delete_volume(volume)
    assert list(cinder.share.iterdir()) == []


def test_copies_and_growth(cinder: World) -> None:
    volume = cinder.volume(encrypted=True)
    cinder.write(volume, 1)
    then = cinder.content(volume)
    snapshot = cinder.snapshot(volume)
    cinder.write(volume, 2, MIB)
    now = cinder.content(volume)
    for copy, wanted in ((cinder.from_snapshot(snapshot, 2), then),
                         (cinder.clone(volume, 2), now)):
        found = cinder.content(copy)
        assert (found.size, found.blocks) == (2 * GIB, wanted.blocks)
        cinder.audit(copy)
        cinder.write(copy, 5)
        kept = cinder.snapshot(copy)
        cinder.audit(copy, kept)
        cinder.delete(kept)
        cinder.delete_volume(copy)
    cinder.driver.extend_volume(cinder.fresh(volume), 2)
    volume.size = 2
    volume.save()
    assert cinder.content(volume).blocks == now.blocks
    cinder.audit(volume, snapshot)
    cinder.driver.revert_to_snapshot(cinder.context, cinder.fresh(volume),
                                     snapshot)
    assert cinder.content(volume).blocks == then.blocks


def test_encryption_is_added_but_never_dropped(cinder: World) -> None:
    plain = cinder.volume()
    cinder.write(plain, 7)
    snapshot = cinder.snapshot(plain)
    for copy in (cinder.clone(plain, encrypted=True),
                 cinder.from_snapshot(snapshot, encrypted=True)):
        assert cinder.content(copy) == cinder.content(plain)
        cinder.audit(copy)
        assert b'\x07' * 4096 not in (
            cinder.share / copy.name).read_bytes()
    secret = cinder.volume(encrypted=True)
    row = cinder.row(source_volid=secret.id)
    with pytest.raises(exception.InvalidVolume, match='in the clear'):
        cinder.driver.create_cloned_volume(row, secret)
    assert not (cinder.share / row.name).exists()


def with_hooks(cinder: World) -> Any:
    """A driver whose operator says that Nova has the hooks."""
    return cinder.make_driver(assisted_agent='always')


def test_a_nova_that_would_format_it_does_not_get_it(
        cinder: World, rabbit: Rabbit, hooks: str) -> None:
    """As released, it overwrites what does not begin as LUKS does."""
    driver = cinder.make_driver(assisted_agent_transport_url=rabbit.url)
    volume = cinder.volume(encrypted=True, driver=driver)
    with pytest.raises(exception.InvalidVolume, match='LUKS header over'):
        cinder.attach(volume, 'compute-9', driver=driver)
    cinder.attach(cinder.volume(driver=driver), 'compute-9', driver=driver)
    other = cinder.volume(encrypted=True, driver=driver)
    assert cinder.attach(other, hooks, driver=driver).connection_info[
        'encrypted'] is True


def test_an_attached_volume_is_handed_out_as_qcow2(cinder: World) -> None:
    volume = cinder.volume(encrypted=True)
    attachment = cinder.attach(volume, driver=with_hooks(cinder))
    assert attachment.connection_info['format'] == 'qcow2'
    assert attachment.connection_info['encrypted'] is True


def test_in_a_guest_that_writes(cinder: World, stage: Stage, agent: Agent,
                                rabbit: Rabbit) -> None:
    driver = cinder.make_driver(assisted_agent='always',
                                assisted_agent_transport_url=rabbit.url)
    [one] = boot(cinder, stage, driver, agent.host,
                 cinder.volume(encrypted=True, driver=driver))
    oldest, middle, newest = (one.take() for _ in range(3))
    one.check()
    copy = cinder.from_snapshot(middle, 2, driver=driver)
    clone = cinder.clone(one.volume, driver=driver)
    for snapshot in (newest, oldest, middle):
        one.delete(snapshot)
        one.check()
        one.snapshots_hold()
    for made, bounds in ((copy, one.taken[middle.id]), (clone, None)):
        disk = cinder.disk(made)
        audit.settled(disk)
        audit.active_holds(disk, one.writer.pattern, bounds)
    one.prove()


class TestFromUpstream:
    """What upstream's driver has left behind."""

    def test_recorded_as_raw(self, cinder: World) -> None:
        """W2: it is qcow2 with LUKS inside."""
        volume = cinder.volume(encrypted=True, driver=cinder.upstream)
        assert cinder.formats(volume)['format'] == 'raw'
        cinder.write(volume, 3)
        wanted = cinder.content(volume)
        found = cinder.attach(volume, driver=with_hooks(cinder))
        assert found.connection_info['format'] == 'qcow2'
        assert cinder.formats(volume)['format'] == 'qcow2'
        assert cinder.content(volume) == wanted

    def test_recorded_as_raw_and_extended(self, cinder: World) -> None:
        volume = cinder.volume(encrypted=True, driver=cinder.upstream)
        cinder.write(volume, 3)
        wanted = cinder.content(volume)
        cinder.driver.extend_volume(cinder.fresh(volume), 2)
        volume.size = 2
        volume.save()
        found = cinder.content(volume)
        assert (found.size, found.blocks) == (2 * GIB, wanted.blocks)
        cinder.audit(volume)

    def test_two_snapshots(self, cinder: World) -> None:
        """W1: the newest is committed into its parent, not the base."""
        volume = cinder.volume(encrypted=True, driver=cinder.upstream)
        contents, taken = [], []
        for byte in (1, 2):
            cinder.write(volume, byte)
            contents.append(cinder.content(volume))
            taken.append(cinder.snapshot(volume, driver=cinder.upstream))
        cinder.write(volume, 3)
        now = cinder.content(volume)
        cinder.delete(taken[1])
        assert cinder.content(volume) == now
        assert cinder.snapshot_content(taken[0]) == contents[0]
        cinder.audit(volume, taken[0])

    def test_a_bare_luks_container(self, cinder: World) -> None:
        """What upstream makes of a snapshot can have none of its own."""
        volume = cinder.volume(encrypted=True, driver=cinder.upstream)
        cinder.write(volume, 3)
        wanted = cinder.content(volume)
        copy = cinder.from_snapshot(
            cinder.snapshot(volume, driver=cinder.upstream),
            driver=cinder.upstream)
        base = cinder.share / copy.name
        assert magic(base) == b'LUKS'
        found = cinder.attach(copy, driver=with_hooks(cinder))
        assert found.connection_info['format'] == 'qcow2'
        assert magic(base) == b'QFI\xfb'
        assert cinder.content(copy) == wanted
        cinder.audit(copy)

    def test_a_bare_luks_container_in_use_is_left_alone(
            self, cinder: World) -> None:
        volume = cinder.volume(encrypted=True, driver=cinder.upstream)
        copy = cinder.from_snapshot(
            cinder.snapshot(volume, driver=cinder.upstream), 2,
            driver=cinder.upstream)
        attachment = cinder.attach(copy, driver=cinder.upstream)
        row = cinder.snapshot_row(copy)
        with pytest.raises(exception.CinderException, match='is detached'):
            cinder.take(row)
        base = cinder.share / copy.name
        assert magic(base) == b'LUKS'
        cinder.detach(attachment)
        cinder.snapshot(copy)
        assert magic(base) == b'QFI\xfb'
        assert cinder.content(copy).size == 2 * GIB


def test_a_copy_with_a_key_of_its_own(cinder: World) -> None:
    volume = cinder.volume(encrypted=True)
    cinder.write(volume, 3)
    wanted = cinder.content(volume)
    snapshot = cinder.snapshot(volume)
    Keys.install()
    keys = key_manager.API(CONF)
    other = keys.create_key(cinder.context, algorithm='aes', length=256)
    passphrase = binascii.hexlify(
        keys.get(cinder.context, other).get_encoded() or b'')
    for make, source in ((cinder.driver.create_cloned_volume, volume),
                         (cinder.driver.create_volume_from_snapshot,
                          snapshot)):
        row = cinder.row(encrypted=True)
        row.encryption_key_id = other
        row.save()
        copy = cinder.settle(row, make(cinder.fresh(row), source))
        assert content.of(cinder.share / copy.name, 'qcow2',
                          passphrase) == wanted
        kept = cinder.snapshot(copy)
        assert content.of(cinder.share / f'{copy.name}.{kept.id}', 'qcow2',
                          passphrase) == wanted


def test_the_passphrase_is_nowhere(
        cinder: World, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a command line, an environment, a log or a file."""
    passphrase = deployment.FIXED_KEY.encode()
    caplog.set_level('DEBUG')
    seen: set[str] = set()
    found: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for process in Path('/proc').glob('[0-9]*'):
                try:
                    words = (process / 'cmdline').read_bytes()
                    if b'qemu-' not in words:
                        continue
                    seen.add(words.split(b'\0')[1].decode())
                    words += (process / 'environ').read_bytes()
                except OSError:
                    continue
                if passphrase in words:
                    found.add(words.decode(errors='replace'))

    watcher = threading.Thread(target=watch)
    cinder.driver  # noqa: B018 -- set up before the watch begins
    watcher.start()
    try:
        volume = cinder.volume(encrypted=True)
        first = cinder.snapshot(volume)
        second = cinder.snapshot(volume)
        copies = [cinder.clone(volume), cinder.from_snapshot(first, 2)]
        cinder.delete(first)
        cinder.driver.revert_to_snapshot(cinder.context,
                                         cinder.fresh(volume), second)
        cinder.driver.extend_volume(cinder.fresh(volume), 2)
        cinder.attach(copies[0], driver=with_hooks(cinder))
    finally:
        over.set()
        watcher.join()
    assert len(seen) > 0
    assert not found
    assert passphrase.decode() not in caplog.text
    for path in cinder.folder.rglob('*'):
        if path.is_file() and path.name != 'cinder.conf':
            assert passphrase not in path.read_bytes()[:64 * MIB], path
