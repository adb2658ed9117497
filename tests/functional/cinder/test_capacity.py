# SPDX-License-Identifier: Apache-2.0
"""What the scheduler is told, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
from typing import Any

from cinder import exception
import pytest

from tests.functional.cinder.lab import deployment
from tests.functional.cinder.lab.world import GIB
from tests.functional.cinder.lab.world import World
from tests.functional.lab import namespace

MIB = 1 << 20


def stats(driver: Any) -> dict[str, Any]:
    found: dict[str, Any] = driver.get_volume_stats(refresh=True)
    return found


def test_stats(cinder: World) -> None:
    driver = cinder.make_driver()
    found = stats(driver)
    assert found['provisioned_capacity_gb'] == 0
    assert found['online_extend_support'] is True
    never = cinder.make_driver(assisted_agent='never')
    assert stats(never)['online_extend_support'] is False
    assert found['multiattach'] is False
    assert found['sparse_copy_volume'] is True
    assert found['thin_provisioning_support'] is True
    assert found['storage_protocol'] == 'nfs'
    assert found['total_capacity_gb'] >= found['free_capacity_gb'] > 0
    assert found['max_over_subscription_ratio'] == 20.0
    volume = cinder.volume(3, driver=driver)
    snapshot = cinder.snapshot(volume, driver=driver)
    assert stats(driver)['provisioned_capacity_gb'] == 6
    cinder.delete(snapshot, driver=driver)
    cinder.delete_volume(volume, driver=driver)
    assert stats(driver)['provisioned_capacity_gb'] == 0


def test_a_volume_elsewhere_counts_for_nothing_here(cinder: World) -> None:
    driver = cinder.make_driver()
    elsewhere = cinder.row(5)
    cinder.settle(elsewhere, {'provider_location': '127.0.0.1:/other'})
    assert stats(driver)['provisioned_capacity_gb'] == 0


def test_the_share_is_not_walked(cinder: World,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``du``, neither for the statistics nor to place a volume."""
    ours, upstream = cinder.make_driver(), cinder.upstream
    tools = cinder.folder / 'tools'
    tools.mkdir()
    walked = cinder.folder / 'walked'
    (tools / 'du').write_text(f'#!/bin/sh\ntouch {walked}\necho 0\n')
    (tools / 'du').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tools}:{os.environ["PATH"]}')
    stats(ours)
    cinder.volume(driver=ours)
    assert not walked.exists()
    stats(upstream)
    assert walked.exists()


def test_more_than_may_be_promised(cinder: World) -> None:
    driver = cinder.make_driver(max_over_subscription_ratio=1.0)
    room = driver.room(deployment.EXPORT)
    size = room.total // GIB
    with pytest.raises(exception.NfsNoSuitableShareFound):
        cinder.volume(size + 1, driver=driver)
    volume = cinder.volume(1, driver=driver)
    with pytest.raises(exception.ExtendVolumeError, match='bytes free'):
        driver.extend_volume(volume, size + 1)
    assert cinder.content(volume).size == GIB


@pytest.fixture
def small(cinder: World) -> Iterator[Path]:
    """The share is a file system of 64 MiB."""
    namespace.unmount(deployment.mount_point(cinder.folder))
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m', 'small',
                    cinder.share], check=True)
    deployment.mount(cinder.folder)
    yield cinder.share
    namespace.unmount(deployment.mount_point(cinder.folder))
    namespace.unmount(cinder.share)
    deployment.mount(cinder.folder)


def fill(share: Path, left: int) -> None:
    """Leave so many bytes on a share."""
    found = subprocess.run(['stat', '-f', '-c', '%a %S', share], check=True,
                           capture_output=True, text=True).stdout.split()
    free = int(found[0]) * int(found[1])
    subprocess.run(['fallocate', '-l', str(free - left), share / 'filler'],
                   check=True)


def test_what_does_not_fit_is_refused_with_numbers(cinder: World,
                                                   small: Path) -> None:
    driver = cinder.make_driver(max_over_subscription_ratio=1000.0,
                                reserved_percentage=0)
    volume = cinder.volume(driver=driver)
    cinder.write(volume, 0x11, 0, 8 * MIB)
    first = cinder.snapshot(volume, driver=driver)
    cinder.write(volume, 0x22, 8 * MIB, 8 * MIB)
    second = cinder.snapshot(volume, driver=driver)
    before = cinder.content(volume)
    fill(small, 4 * MIB)
    for attempt, source in ((cinder.from_snapshot, second),
                            (cinder.clone, volume)):
        with pytest.raises(exception.VolumeBackendAPIException,
                           match=r'may need \d+ bytes, the share has \d+'):
            attempt(source, driver=driver)
    with pytest.raises(exception.SnapshotIsBusy,
                       match=r'may need \d+ bytes, the share has \d+ free'):
        cinder.delete(first, driver=driver)
    assert cinder.content(volume) == before
    (small / 'filler').unlink()
    cinder.audit(volume, first, second)
    for snapshot in (first, second):
        cinder.delete(snapshot, driver=driver)
    assert cinder.content(volume) == before
    cinder.audit(volume)
