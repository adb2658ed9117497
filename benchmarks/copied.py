# SPDX-License-Identifier: Apache-2.0
"""How many bytes a delete copies: 16 MiB on 4 GiB, both ways.

The planner's choice is carried out by the agent on an idle guest; what
QEMU wrote to the share meanwhile is what was copied.
"""

from __future__ import annotations

from pathlib import Path
import time

from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.value import Format
from assisted_snapshots.rpcapi.guest import AgentGuest
from benchmarks.lab import Lab
from benchmarks.lab import put_info
from benchmarks.lab import written
from benchmarks.table import mib
from benchmarks.table import Results
from tests.functional.lab import images
from tests.functional.lab.share import GIB
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Share
from tests.functional.lab.share import Volume
from tests.functional.lab.stage import Stage

LARGE = 4 * GIB
SMALL = 16 * MIB
LIMIT = 20 * MIB
_PIECE = 512 * MIB


def measure(lab: Lab, results: Results) -> None:
    """Measure both ways."""
    for name, make in (('16 MiB written since, on 4 GiB', small_on_large),
                       ('4 GiB written since, on 16 MiB', large_on_small)):
        with lab.stage('copied') as stage:
            volume = make(stage.share())
            copied, seconds = _delete(lab, stage, volume)
            results.add(f'bytes copied by a delete: {name}',
                        f'{mib(copied)} in {seconds:.1f} s',
                        f'least possible {mib(SMALL)}',
                        f'at most {mib(LIMIT)}', copied <= LIMIT)


def small_on_large(share: Share) -> Volume:
    """A raw base full of data, and a little in the overlay."""
    volume = share.volume('raw', LARGE + 64 * MIB)
    _fill(volume.path, 'raw', 0, LARGE)
    _fill(_overlay(share, volume), 'qcow2', 0, SMALL)
    return volume


def large_on_small(share: Share) -> Volume:
    """A little in the base that the full overlay does not cover."""
    volume = share.volume('raw', LARGE + 64 * MIB)
    _fill(volume.path, 'raw', LARGE, SMALL)
    _fill(_overlay(share, volume), 'qcow2', 0, LARGE)
    return volume


def _overlay(share: Share, volume: Volume) -> Path:
    overlay = share.overlay(volume, 'only')
    put_info(volume, (volume.name, overlay.name))
    return overlay


def _fill(path: Path, form: str, at: int, length: int) -> None:
    pieces = range(at, at + length, _PIECE)
    images.io(path, form, [
        f'write -q -P {17 + i} {start} {min(_PIECE, at + length - start)}'
        for i, start in enumerate(pieces)])


def _delete(lab: Lab, stage: Stage, volume: Volume) -> tuple[int, float]:
    """Delete the only snapshot; bytes QEMU wrote, and seconds."""
    agent = stage.agent(lab.rabbit)
    agent.start()
    guest = stage.guest(volume)
    guest.start()
    operations = Operations(
        VolumeFiles(volume.folder, volume.name),
        formats={volume.name: Format(volume.format)},
        guest=AgentGuest(agent.client()))
    before, begun = written(guest.pid), time.monotonic()
    operations.delete('only')
    return written(guest.pid) - before, time.monotonic() - begun
