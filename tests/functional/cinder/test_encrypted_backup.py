# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes through Cinder's backup service: nothing in the clear.

Content is compared by QEMU's tools; the backup's files are stored without
compression, so that plain text in them would be found.
"""

from __future__ import annotations

import binascii
from pathlib import Path
from typing import Any

from castellan import key_manager
from cinder import exception
from oslo_config import cfg
import pytest

from tests.functional.cinder.lab import content
from tests.functional.cinder.lab.backup import BackupService
from tests.functional.cinder.lab.backup import history
from tests.functional.cinder.lab.backup import PATTERNS
from tests.functional.cinder.lab.content import assert_sealed
from tests.functional.cinder.lab.content import Content
from tests.functional.cinder.lab.keys import Keys
from tests.functional.cinder.lab.world import World

CONF = cfg.CONF
MIB = 1 << 20
GIB = 1 << 30

pytestmark = pytest.mark.usefixtures('quick_stretching')


@pytest.fixture
def backups(backups: BackupService) -> BackupService:
    """The same, and what it stores can be looked at."""
    CONF.set_override('backup_compression_algorithm', 'none')
    return backups


def stored(cinder: World) -> Path:
    """The file that holds the content of the only backup."""
    return max((cinder.folder / 'state/backup').rglob('*'),
               key=lambda path: path.stat().st_size)


def test_with_snapshots(cinder: World, backups: BackupService) -> None:
    volume, snapshots = history(cinder, encrypted=True)
    expected = cinder.content(volume)
    held = [cinder.snapshot_content(snapshot) for snapshot in snapshots]
    backup = backups.create(volume)
    cinder.audit(volume, *snapshots)
    assert_sealed(stored(cinder), *PATTERNS)
    # Into a new volume, and back into the same one, whose snapshots stay.
    restored = backups.restore(backup, encrypted=True)
    assert cinder.content(restored) == expected
    cinder.audit(restored)
    kept = cinder.snapshot(restored)
    cinder.audit(restored, kept)
    cinder.write(volume, 0x77, 7 * MIB)
    cinder.write(volume, 0x77, 3 * MIB)
    backups.restore(backup, volume)
    assert cinder.content(volume) == expected
    assert held == [cinder.snapshot_content(snapshot)
                    for snapshot in snapshots]
    cinder.audit(volume, *snapshots)


def test_of_a_snapshot(cinder: World, backups: BackupService) -> None:
    volume, snapshots = history(cinder, encrypted=True)
    expected = cinder.snapshot_content(snapshots[0])
    backup = backups.create(volume, snapshots[0])
    assert_sealed(stored(cinder), *PATTERNS)
    restored = backups.restore(backup, encrypted=True)
    assert cinder.content(restored) == expected
    cinder.audit(volume, *snapshots)


class TestKeys:
    """Every volume and every backup has a key of its own, as in Barbican."""

    @pytest.fixture(autouse=True)
    def several(self, cinder: World) -> None:
        Keys.install()

    def made(self, cinder: World) -> Any:
        """An encrypted volume with a new key."""
        row = cinder.row(encrypted=True)
        row.encryption_key_id = key_manager.API(CONF).create_key(
            cinder.context, algorithm='aes', length=256)
        row.save()
        return cinder.settle(
            row, cinder.manager.driver.create_volume(cinder.fresh(row)))

    def write(self, cinder: World, volume: Any, byte: int) -> None:
        disk = cinder.disk(volume)
        content.write(disk.active, 'qcow2', byte,
                      secret=self.passphrase(cinder, volume))

    def content(self, cinder: World, volume: Any) -> Content:
        """What a guest would see, by the key that the row names now."""
        volume = cinder.fresh(volume)
        return content.of(cinder.disk(volume).active, 'qcow2',
                          self.passphrase(cinder, volume))

    def passphrase(self, cinder: World, volume: Any) -> bytes:
        key = key_manager.API(CONF).get(cinder.context,
                                        volume.encryption_key_id)
        return binascii.hexlify(key.get_encoded() or b'')

    def test_restore(self, cinder: World, backups: BackupService) -> None:
        """The key comes with the backup, where it may replace another."""
        source, other = self.made(cinder), self.made(cinder)
        self.write(cinder, source, 0x10)
        expected = self.content(cinder, source)
        backup = backups.create(source)
        backups.restore(backup, other)
        found = cinder.fresh(other)
        assert found.encryption_key_id not in (
            source.encryption_key_id, backup.encryption_key_id,
            other.encryption_key_id)
        assert self.passphrase(cinder, found) == self.passphrase(
            cinder, source)
        assert self.content(cinder, other) == expected
        # Above snapshots it may not.
        third = self.made(cinder)
        self.write(cinder, third, 0x11)
        kept = self.content(cinder, third)
        cinder.snapshot(third, driver=cinder.manager.driver)
        with pytest.raises(exception.VolumeBackendAPIException,
                           match='another key'):
            backups.restore(backup, third)
        assert cinder.fresh(third).status == 'error_restoring'
        assert (cinder.fresh(third).encryption_key_id
                == third.encryption_key_id)
        assert self.content(cinder, third) == kept
        # The volume's own backup has a copy of its key.
        cinder.snapshot(source, driver=cinder.manager.driver)
        self.write(cinder, source, 0x12)
        backups.restore(backup, source)
        assert self.content(cinder, source) == expected

    def test_plain_backup(self, cinder: World,
                          backups: BackupService) -> None:
        volume = self.made(cinder)
        before = self.content(cinder, volume)
        backup = backups.create(cinder.volume(driver=cinder.manager.driver))
        with pytest.raises(exception.VolumeBackendAPIException,
                           match='without encryption'):
            backups.restore(backup, volume)
        assert self.content(cinder, volume) == before
