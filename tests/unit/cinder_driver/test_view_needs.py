# SPDX-License-Identifier: Apache-2.0
"""Who connects a volume, Cinder or Nova, and what for: a table."""

from __future__ import annotations

from typing import Any

from cinder import objects
import pytest

from assisted_snapshots.cinder_driver import view_needs
from assisted_snapshots.cinder_driver.view_needs import LOOK
from assisted_snapshots.cinder_driver.view_needs import READ
from assisted_snapshots.cinder_driver.view_needs import REPLACE
from assisted_snapshots.cinder_driver.view_needs import WRITE

CONNECTOR = {'host': 'compute-1'}
KEY = '33cd3fd9-98ea-4aa4-b4c7-d9c9e5f5ab46'


objects.register_all()


def volume(status: str, migration: str | None = None,
           *attachments: dict[str, Any] | None,
           key: str | None = None) -> objects.Volume:
    """A row; an attachment is its connector."""
    return objects.Volume(
        status=status, migration_status=migration, encryption_key_id=key,
        volume_attachment=objects.VolumeAttachmentList(objects=[
            objects.VolumeAttachment(connector=one) for one in attachments]))


@pytest.mark.parametrize(('row', 'wanted'), [
    (volume('backing-up'), READ),
    (volume('uploading'), READ),
    (volume('retyping', 'migrating'), READ),
    (volume('available', 'migrating'), READ),
    (volume('maintenance', 'migrating'), READ),
    (volume('in-use'), READ),  # the generic revert's source
    (volume('available', 'target:one'), WRITE),
    (volume('creating', 'target:one'), WRITE),
    (volume('restoring-backup'), WRITE),
    (volume('creating'), WRITE),
    (volume('creating', key=KEY), LOOK),
    (volume('creating', 'target:one', key=KEY), WRITE),
    (volume('reverting'), REPLACE),
    (volume('downloading', None, None), REPLACE),  # reimage
    (volume('downloading'), REPLACE),
])
def test_cinder(row: objects.Volume, wanted: str) -> None:
    assert view_needs.is_own(row, CONNECTOR)
    assert view_needs.purpose(row) == wanted


@pytest.mark.parametrize('row', [
    volume('available'),
    volume('reserved', None, None),
    volume('attaching', None, None),
    volume('attaching'),  # without attachment records
    volume('reserved'),
    volume('in-use', None, CONNECTOR),
    volume('in-use', 'migrating', CONNECTOR),
    volume('backing-up', None, CONNECTOR),
    volume('available', 'target:one', None),
    volume('downloading', None, CONNECTOR),
    volume('error'),
])
def test_nova(row: objects.Volume) -> None:
    assert not view_needs.is_own(row, CONNECTOR)


def test_nobody() -> None:
    """A forced detach says no host."""
    assert not view_needs.is_own(volume('backing-up'), None)
