# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes through Cinder's backup service: nothing in the clear.

Content is compared by QEMU's tools; the backup's files are stored without
compression, so that plain text in them would be found.
"""

from __future__ import annotations

from collections.abc import Iterator
import mmap
from pathlib import Path

from oslo_config import cfg
import pytest

from tests.faults import killer
from tests.functional.cinder.lab.backup import BackupService
from tests.functional.cinder.lab.world import World
from tests.functional.cinder.test_backup import history
from tests.functional.cinder.test_views import gone

CONF = cfg.CONF
MIB = 1 << 20
GIB = 1 << 30
#: What the layers of :func:`history` hold.
PATTERNS = (0x10, 0x11, 0x12)


@pytest.fixture(scope='module')
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killer.build(tmp_path_factory.mktemp('killer'))


@pytest.fixture(autouse=True)
def quick_stretching(library: Path) -> Iterator[None]:
    """LUKS measures how slow the CPU is, which takes seconds a layer."""
    with killer.loaded(library):
        yield


@pytest.fixture
def backups(cinder: World) -> Iterator[BackupService]:
    """Cinder's backup service beside its volume manager."""
    assert cinder.manager.driver.initialized
    service = BackupService(cinder)
    CONF.set_override('backup_compression_algorithm', 'none')
    yield service
    service.close()
    gone(cinder)


def stored(cinder: World) -> list[Path]:
    """The files of all backups that hold content."""
    return [path for path in (cinder.folder / 'state/backup').rglob('*')
            if path.is_file() and path.stat().st_size >= MIB]


def assert_sealed(path: Path) -> None:
    """Nothing of the volume's content is in a file in the clear."""
    with (open(path, 'rb') as file,
          mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data):
        for byte in PATTERNS:
            assert data.find(bytes([byte]) * 512) < 0, hex(byte)
        # Nor can it be told where there is nothing, behind the header.
        assert data.find(bytes(512), len(data) - GIB) < 0


def test_with_snapshots(cinder: World, backups: BackupService) -> None:
    volume, snapshots = history(cinder, encrypted=True)
    expected = cinder.content(volume)
    held = [cinder.snapshot_content(snapshot) for snapshot in snapshots]
    backup = backups.create(volume)
    cinder.audit(volume, *snapshots)
    [data] = [path for path in stored(cinder)
              if 'sha256' not in path.name]
    with data.open('rb') as file:
        assert file.read(6) == b'LUKS\xba\xbe'
    assert_sealed(data)
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
