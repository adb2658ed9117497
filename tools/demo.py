# SPDX-License-Identifier: Apache-2.0
"""The main job, shown on a real guest; run it by ``tools/demo``.

A guest boots from nothing and writes without pause.  Three snapshots are
taken while it does, a volume is cloned from the second, and the middle, the
newest and the last snapshot are deleted.  Everything is done by the real
``assisted-snapshot`` command, through a real agent.  Every content is
proved record by record by the laboratory, which knows nothing of how the
project works; the exit status is 0 only where every proof held.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import field
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.functional.lab import content
from tests.functional.lab import images
from tests.functional.lab.content import Bounds
from tests.functional.lab.guest import Guest
from tests.functional.lab.guest import Moment
from tests.functional.lab.guest import Writer
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Volume
from tests.functional.lab.stage import Stage

SIZE = 256 * MIB
#: The guest goes around in 48 MiB, which are full when it begins.
BLOCKS = 12288
DELAY = 0.003
#: Records of 4 KiB written before each snapshot and before the deletions.
WRITES = (128, 256, 256, 512)
#: So that the merges can be watched.
BANDWIDTH = 8 * MIB
NAMES = ('morning', 'noon', 'evening')


@dataclass
class Step:
    """A row of the last table; bytes and seconds."""

    name: str
    seconds: float = 0.0
    copied: int | None = None
    least: int | None = None
    stall: float = 0.0


@dataclass
class Proof:
    """What was compared, and how it came out."""

    what: str
    when: str
    bounds: Bounds
    record: int = 0
    error: str = ''


@dataclass
class Demo:
    """The guest, its volume and what has been measured."""

    console: Console
    guest: Guest
    volume: Volume
    writer: Writer
    environment: dict[str, str]
    steps: list[Step] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    moments: dict[str, Bounds] = field(default_factory=dict)

    def run(self) -> None:
        """Do the main job."""
        for name, records in zip(NAMES, WRITES, strict=False):
            self.writer.write_more(records)
            self.take(name)
        self.prove_snapshots('taken')
        self.clone('noon', 'volume-clone')
        self.writer.write_more(WRITES[-1])
        for name in ('noon', 'evening', 'morning'):
            self.delete(name)
            self.prove_snapshots(f'after deleting {name}')
        self.finish()

    def take(self, name: str) -> None:
        """Take a snapshot while the guest writes."""
        with self.step(f'create {name}'), Moment(self.writer) as moment:
            self.show('snapshot', 'create', self.volume.name, name)
        self.moments[name] = moment.bounds
        self.picture()

    def clone(self, name: str, clone: str) -> None:
        """Make a volume from a snapshot."""
        least = data_bytes(*self.snapshot(name), chain=True)
        with self.step(f'clone {name}', least) as step:
            self.show('snapshot', 'clone', self.volume.name, name, clone,
                      '--to', 'raw')
        step.copied = data_bytes(self.volume.folder / clone, 'raw')
        self.prove('the clone', 'made', self.volume.folder / clone, 'raw',
                   self.moments[name])

    def delete(self, name: str) -> None:
        """Delete a snapshot while the guest writes."""
        self.show('plan', self.volume.name, name)
        overlay = self.volume.folder / self.volume.info[name]
        below, form = self.snapshot(name)
        least = min(data_bytes(overlay, 'qcow2'), data_bytes(below, form))
        own = self.own_writes()
        with self.step(f'delete {name}', least) as step:
            before, guest = self.written()
            self.show('snapshot', 'delete', self.volume.name, name,
                      '--bandwidth', str(BANDWIDTH))
            after, guest_after = self.written()
            step.copied = max(0, round(
                after - before - own * (guest_after - guest)))
        del self.moments[name]
        self.picture()

    def finish(self) -> None:
        """Stop the guest's writer; prove what is left."""
        progress = self.writer.stop()
        exact = Bounds(progress.acknowledged, progress.acknowledged)
        self.guest.destroy()
        self.prove('the volume', 'at the end', self.volume.active,
                   self.volume.active_format, exact)
        clone = self.volume.folder / 'volume-clone'
        self.prove('the clone', 'at the end', clone, 'raw',
                   next(p.bounds for p in self.proofs
                        if p.what == 'the clone'))

    def snapshot(self, name: str) -> tuple[Path, str]:
        """The layer that a snapshot's content ends with, and its format."""
        overlay = self.volume.folder / self.volume.info[name]
        layer = images.chain(overlay, 'qcow2')[-2]
        return self.volume.folder / layer['filename'], layer['format']

    def prove_snapshots(self, when: str) -> None:
        """Prove the content of all snapshots that there are."""
        for name in self.moments:
            self.prove(f'snapshot {name}', when, *self.snapshot(name),
                       self.moments[name])

    def prove(self, what: str, when: str, image: Path, form: str,
              bounds: Bounds) -> None:
        """Compare an image with what the guest had written."""
        proof = Proof(what, when, bounds)
        try:
            proof.record = content.prove(image, form, self.writer.pattern,
                                         bounds)
        except content.ContentError as exc:
            proof.error = str(exc)
        earlier = {p.record for p in self.proofs
                   if p.what == what and not p.error}
        if not proof.error and earlier - {proof.record}:
            proof.error = f'record {proof.record}, but {earlier} before'
        self.proofs.append(proof)
        self.console.print(
            f'  {what}, {when}: '
            + (f'[bold red]{proof.error}' if proof.error else
               f'[green]exactly records 1..{proof.record}'),
            highlight=False)

    @contextmanager
    def step(self, name: str, least: int | None = None) -> Iterator[Step]:
        """Measure a step: time, and the guest's longest wait."""
        step = Step(name, least=least)
        self.writer.reset_gap()
        begun = time.monotonic()
        yield step
        step.seconds = time.monotonic() - begun
        step.stall = self.writer.progress().longest_gap
        self.steps.append(step)

    def written(self) -> tuple[int, int]:
        """Bytes that QEMU, and that the guest has written."""
        text = Path(f'/proc/{self.guest.pid}/io').read_text()
        total = int(dict(line.split(': ') for line in
                         text.splitlines())['write_bytes'])
        stats = self.guest.domain.blockStats(self.guest.device(self.volume))
        return total, int(stats[3])

    def own_writes(self, seconds: float = 1.0) -> float:
        """Bytes QEMU writes for each byte of the guest, while no job runs.

        qcow2 copies a cluster when its first sector is written, and keeps
        tables; what a deletion copies is what is written beyond that.
        """
        before, guest = self.written()
        time.sleep(seconds)
        after, guest_after = self.written()
        return (after - before) / max(1, guest_after - guest)

    def picture(self) -> None:
        """Show the chain."""
        self.show('chain', 'show', self.volume.name)

    def show(self, *arguments: str) -> None:
        """Run the real command; it says on our terminal what it does."""
        self.say(*arguments)
        subprocess.run(
            [sys.executable, '-m', 'assisted_snapshots.cli', *arguments],
            env=self.environment, check=True)

    def say(self, *arguments: str) -> None:
        """Show the command that is run."""
        self.console.print('\n[bold cyan]$ assisted-snapshot '
                           + ' '.join(arguments), highlight=False,
                           soft_wrap=True)

    def report(self) -> bool:
        """Print the tables; True where every comparison held."""
        table = Table(title='What it took')
        for name in ('step', 'time', 'copied', 'least possible',
                     'longest write stall'):
            table.add_column(name, justify='left' if name == 'step'
                             else 'right')
        for s in self.steps:
            table.add_row(s.name, f'{s.seconds:.2f} s', mib(s.copied),
                          mib(s.least), f'{s.stall * 1000:.0f} ms')
        self.console.print(table)
        wrong = [p for p in self.proofs if p.error]
        for p in wrong:
            self.console.print(f'[bold red]{p.what}, {p.when}: {p.error}')
        self.console.print(
            f'{len(self.proofs)} comparisons, {len(wrong)} did not hold'
            if wrong else f'[bold green]All {len(self.proofs)} comparisons '
            'held: no acknowledged write lost, no later write in a '
            'snapshot.', soft_wrap=True)
        return not wrong


def mib(count: int | None) -> str:
    """Bytes for the table."""
    return '' if count is None else f'{count / MIB:.1f} MiB'


def data_bytes(image: Path, form: str, *, chain: bool = False) -> int:
    """Bytes of data that a file holds, or a file and all below it."""
    found: list[dict[str, Any]] = json.loads(images.run(
        'map', '-U', '-f', form, '--output=json', image))
    return sum(e['length'] for e in found
               if e['data'] and (chain or e['depth'] == 0))


@contextmanager
def laboratory(console: Console, keep: bool) -> Iterator[Demo]:
    """Start everything; end all of it, and keep the files of a failure."""
    begun = time.monotonic()
    with ExitStack() as stack:
        rabbit, libvirtd = Rabbit(), Libvirtd()
        for name, part in (('RabbitMQ', rabbit), ('libvirtd', libvirtd)):
            stack.callback(part.stop)
            with timed(console, name):
                part.start()
        stage = Stage(libvirtd, 'demo')
        stack.push(lambda kind, *_: leave(console, stage,
                                          keep or kind is not None))
        agent = stage.agent(rabbit, 'compute-1', poll_interval=0.2)
        with timed(console, 'agent'):
            agent.start()
        share = stage.share()
        volume = share.volume('raw', SIZE, volume_id='demo')
        fill(volume)
        guest = stage.guest(volume)
        with timed(console, 'guest'):
            guest.start()
        writer = guest.writer(volume, blocks=BLOCKS, delay=DELAY)
        writer.start(BLOCKS)
        console.print('all was ready after '
                      f'{time.monotonic() - begun:.1f} s')
        yield Demo(console, guest, volume, writer, os.environ | {
            'ASSISTED_SNAPSHOT_SHARE': str(share.folder),
            'ASSISTED_SNAPSHOT_TRANSPORT_URL': rabbit.url,
            'ASSISTED_SNAPSHOT_HOST': agent.host})


def fill(volume: Volume) -> None:
    """Write the first records, as a guest that ran earlier would have."""
    pattern = content.Pattern.of(volume.id, BLOCKS)
    with open(volume.path, 'r+b') as image:
        for number in range(1, BLOCKS + 1):
            image.seek(number % BLOCKS * content.RECORD)
            image.write(pattern.record(number))


@contextmanager
def timed(console: Console, what: str) -> Iterator[None]:
    """Say how long a part of the laboratory took to start."""
    begun = time.monotonic()
    yield
    console.print(f'{what} started in {time.monotonic() - begun:.1f} s')


def leave(console: Console, stage: Stage, keep: bool) -> None:
    """Clear the stage, or say where its files are."""
    if keep:
        stage.collect()
    place = stage.close(keep)
    if place is not None:
        console.print(f'files and logs are left in {place}')


def main() -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(
        prog='tools/demo', description='Snapshot, clone and merge the disk '
                                       'of a guest that never stops writing.')
    parser.add_argument('--keep', action='store_true',
                        help='leave the volume, the logs and the XML')
    args = parser.parse_args()
    # Ends clean however it is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    begun = time.monotonic()
    try:
        with laboratory(console, args.keep) as demo:
            demo.run()
    except subprocess.CalledProcessError as exc:
        console.print(f'[bold red]the last command ended with status '
                      f'{exc.returncode}')
        return 1
    held = demo.report()
    console.print(f'took {time.monotonic() - begun:.0f} s')
    return 0 if held else 1


if __name__ == '__main__':
    sys.exit(main())
