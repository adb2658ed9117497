# SPDX-License-Identifier: Apache-2.0
"""cinder-volume killed at every step of every operation, and started again.

The steps are those of an uncut run: every change to the share, every tool,
every commit to the database, and the driver's return.  What a start makes
of it is looked at by a third process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import subprocess

import pytest

from tests.functional.cinder import crash
from tests.functional.cinder.lab import deployment
from tests.functional.cinder.lab import process

_OPTIONS = '''
[DEFAULT]
service_down_time = 2
'''


@pytest.fixture
def place(cinder_folder: Path) -> Iterator[Path]:
    """The folder of a deployment that no process is in."""
    deployment.build(cinder_folder)
    try:
        with open(cinder_folder / 'cinder.conf', 'a') as file:
            file.write(_OPTIONS)
        deployment.add_backend(cinder_folder, process.SECTION,
                               assisted_recovery_interval=0)
        yield cinder_folder
    finally:
        deployment.unmount(cinder_folder)


@pytest.mark.parametrize('name', crash.CASES)
def test_killed_anywhere(place: Path, name: str) -> None:
    known = process.run(crash.prepare, place, name)
    keep(place)
    effects = process.run(crash.request, place, name, known)
    assert effects[-1] == 'return'
    assert len(effects) > 2, effects
    for at in range(len(effects)):
        restore(place)
        seen = process.run(crash.request, place, name, known, at)
        # Progress is noted as time passes: there may be less of it.
        assert seen is None or len(seen) <= at
        try:
            process.run(crash.recover, place, name, known)
        except AssertionError as exc:
            raise AssertionError(f'killed in front of {effects[at]} '
                                 f'(effect {at} of {effects})') from exc


def keep(place: Path) -> None:
    """Keep share and database as they are now."""
    (place / 'kept').mkdir()
    for file in _files(place):
        _copy(file, place / 'kept' / file.name)


def restore(place: Path) -> None:
    """Bring share and database back to what was kept."""
    for file in _files(place):
        file.unlink()
    for file in (place / 'kept').iterdir():
        _copy(file, (place if file.name.startswith('cinder.sqlite')
                     else place / 'share') / file.name)


def _files(place: Path) -> list[Path]:
    return [*(place / 'share').iterdir(), *place.glob('cinder.sqlite*')]


def _copy(source: Path, target: Path) -> None:
    subprocess.run(['cp', '--sparse=always', '-a', source, target],
                   check=True)
