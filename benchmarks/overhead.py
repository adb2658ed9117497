# SPDX-License-Identifier: Apache-2.0
"""Create and delete: agent and bare libvirt in turn, on one busy guest.

The chain grows by a layer from the one and a layer from the other, then
shrinks the same way, so both meet the same chain, share and load.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from statistics import median

from assisted_snapshots.rpcapi.client import AgentClient
from benchmarks import bare
from benchmarks import journal
from benchmarks.lab import create_request
from benchmarks.lab import done
from benchmarks.lab import Lab
from benchmarks.lab import merge_request
from benchmarks.lab import put_info
from benchmarks.lab import timed
from benchmarks.table import ms
from benchmarks.table import Results
from tests.functional.lab.guest import Guest
from tests.functional.lab.guest import Writer
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Share
from tests.functional.lab.share import Volume

ROUNDS = 10
RECORDS = 64  # written between two snapshots, 4 KiB each


@dataclass
class Series:
    """Seconds of one way to do one thing, and of the guest's waits."""

    seconds: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)


@dataclass
class Duel:
    """The guest, and how both did."""

    share: Share
    guest: Guest
    volume: Volume
    writer: Writer
    client: AgentClient
    state_dir: Path
    accept: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    writes: dict[str, list[int]] = field(default_factory=dict)

    def run(self) -> None:
        """Do all rounds."""
        self.writer.start()
        for number in range(ROUNDS):
            for who in ('agent', 'bare'):
                self.writer.write_more(RECORDS)
                self.create(who, f'{who}-{number}')
        for _number in range(ROUNDS - 1):  # the last two have no room
            for who in ('agent', 'bare'):
                self.delete(who)
            with timed(self.pings):
                self.client.ping()
        self.writer.stop()

    def create(self, who: str, snapshot_id: str) -> None:
        """Take a snapshot one way."""
        new = self.share.overlay(self.volume, snapshot_id)
        with self.watch('create', who):
            if who == 'bare':
                bare.snapshot(self.guest, self.volume, new.name)
            else:
                with timed(self.accept):
                    job = self.client.create_snapshot(
                        create_request(self.volume, new))
                done(self.client, job)
        put_info(self.volume, self.guest.chain(self.volume))

    def delete(self, who: str) -> None:
        """Merge the layer below the active one, one way."""
        base, top = self.guest.chain(self.volume)[-3:-1]
        request = merge_request(self.guest, self.volume, top)
        with self.watch('delete', who):
            if who == 'bare':
                bare.commit(self.guest, self.volume, base, top)
            else:
                with timed(self.accept):
                    job = self.client.merge(request)
                done(self.client, job)

    def watch(self, what: str, who: str) -> _Watch:
        """Measure a step."""
        return _Watch(self, what, who)


class _Watch:
    """Time, the guest's longest wait, and journal writes of a step."""

    def __init__(self, duel: Duel, what: str, who: str) -> None:
        self._duel, self._what, self._who = duel, what, who
        self._series = duel.series.setdefault((what, who), Series())
        self._timed = timed(self._series.seconds)

    def __enter__(self) -> None:
        self._duel.writer.reset_gap()
        self._before = journal.transactions(self._duel.state_dir)
        self._timed.__enter__()

    def __exit__(self, *problem: object) -> None:
        self._timed.__exit__(None, None, None)
        duel = self._duel
        self._series.stalls.append(duel.writer.progress().longest_gap)
        if self._who == 'agent':
            duel.writes.setdefault(self._what, []).append(
                journal.transactions(duel.state_dir) - self._before)


def measure(lab: Lab, results: Results) -> None:
    """Measure accept, create, delete, stalls and journal writes."""
    with lab.stage('overhead') as stage:
        share = stage.share()
        volume = share.volume('qcow2', 256 * MIB)
        guest = stage.guest(volume)
        agent = stage.agent(lab.rabbit)
        agent.start()
        guest.start()
        duel = Duel(share, guest, volume, guest.writer(volume),
                    agent.client(), agent.folder / 'state')
        duel.run()
    report(duel, results)


def report(duel: Duel, results: Results) -> None:
    """Turn the series into rows."""
    accept = median(duel.accept)
    results.add('accept, median', ms(accept),
                f'ping {ms(median(duel.pings))}', 'under 50 ms',
                accept < 0.05)
    for what in ('create', 'delete'):
        ours = duel.series[what, 'agent']
        theirs = duel.series[what, 'bare']
        mine, other = median(ours.seconds), median(theirs.seconds)
        limit = 1.5 * other + 0.05
        promised = what == 'create'
        results.add(
            f'{what}, median', f'{ms(mine)} ({mine / other:.2f}x)',
            f'libvirt {ms(other)}',
            f'1.5x + 50 ms = {ms(limit)}' if promised else '',
            mine <= limit if promised else None)
        mine, other = median(ours.stalls), median(theirs.stalls)
        results.add(f'longest write stall in {what}, median',
                    f'{ms(mine)} ({mine / other:.2f}x)',
                    f'libvirt {ms(other)}')
        writes = duel.writes[what]
        results.add(f'journal writes per {what}', f'{median(writes):g}')
