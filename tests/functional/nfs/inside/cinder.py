# SPDX-License-Identifier: Apache-2.0
"""A real Cinder in a client, as an ordinary user who cannot become root.

What would have been done as root comes to a ``sudo`` that writes down what
it was asked for, and fails.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import os
from pathlib import Path
from typing import Any

from tests.functional.nfs.inside.volumes import modes

FOLDER = Path('/tmp/cinder')
_ASKED = Path('/tmp/asked-of-root')
_HELPER = Path('/run/bin/sudo')
_SECURE: dict[str, Any] = {'nas_secure_file_operations': 'true',
           'nas_secure_file_permissions': 'true',
           'nfs_snapshot_support': True}


def prepare(source: str, uid: int, gid: int, options: str) -> None:
    """Mount the share where Cinder will look for it; for root."""
    from tests.functional.cinder.lab import deployment
    from tests.functional.nfs.lab import runner

    runner.mount(source, str(deployment.mount_point(FOLDER)), options)
    for folder in (FOLDER, FOLDER / 'mnt'):
        os.chown(folder, uid, gid)
    _HELPER.parent.mkdir(exist_ok=True)
    _HELPER.write_text(f'#!/bin/sh\necho "$*" >>{_ASKED}\nexit 1\n')
    _HELPER.chmod(0o755)


def work(folders: Sequence[str]) -> dict[str, Any]:
    """Do everything once; what was seen meanwhile.

    :param folders: also try whether a driver could work there.
    """
    from cinder import privsep
    from os_brick import privileged

    from tests.functional.cinder.lab import world as lab
    from tests.functional.lab import paths

    paths.RUNNING = Path('/tmp/running')  # the checkout is read-only here
    os.environ['PATH'] = f'{_HELPER.parent}:{os.environ["PATH"]}'
    seen: dict[str, Any] = {'files': [], 'upstream': ''}
    world = lab.World(FOLDER, bound=False)
    for context in (privsep.sys_admin_pctxt, privileged.default):
        context.set_client_mode(True)  # as in a service: through sudo
    try:
        world.make_driver(lab.UPSTREAM, **_SECURE)
    except Exception as exc:
        seen['upstream'] = str(exc)
    _ASKED.unlink(missing_ok=True)
    seen['trials'] = {folder: _trial(Path(folder)) for folder in folders}
    world.driver = world.make_driver(lab.OURS, **_SECURE)
    _operations(world, lambda step: seen['files'].append(
        (step, modes(str(world.share)))))
    seen['asked'] = (_ASKED.read_text().splitlines() if _ASKED.exists()
                     else [])
    seen['left'] = os.listdir(world.share)
    return seen


def _trial(folder: Path) -> dict[str, Any]:
    """What the driver's check at its start finds."""
    from assisted_snapshots.cinder_driver import permissions

    found = permissions.attempt(folder, 0o660)
    return {'fault': permissions.fault(found),
            'advice': permissions.advice(found),
            'mount': [found.mount[0], *found.mount[1]]}


def _operations(world: Any, see: Callable[[str], None]) -> None:
    """Every operation on volumes with snapshots; contents compared."""
    volume = world.volume()
    world.write(volume, 1)
    see('volume made')
    first = world.snapshot(volume)
    before = world.snapshot_content(first)
    world.write(volume, 2)
    second = world.snapshot(volume)
    world.write(volume, 3)
    see('snapshots taken')
    copy = world.from_snapshot(first, 2)
    assert world.content(copy).blocks == before.blocks
    twin = world.clone(volume)
    assert world.content(twin) == world.content(volume)
    see('copies made')
    kept = world.snapshot_content(second)
    world.delete(first)
    see('snapshot deleted')
    assert world.snapshot_content(second) == kept
    world.driver.revert_to_snapshot(world.context, world.fresh(volume),
                                    world.fresh(second))
    assert world.content(volume) == kept
    see('reverted')
    world.driver.extend_volume(world.fresh(volume), 2)
    see('extended')
    world.delete(second)
    see('all snapshots deleted')
    for made in (volume, copy, twin):
        world.delete_volume(made)
