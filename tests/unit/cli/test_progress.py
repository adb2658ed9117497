# SPDX-License-Identifier: Apache-2.0
"""Progress: a bar on a terminal, lines elsewhere; and quick starts."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.cli.bar import shorten
from assisted_snapshots.cli.places import of_merge
from assisted_snapshots.cli.places import Places
from assisted_snapshots.cli.progress import Meter
from assisted_snapshots.cli.progress import note_of
from assisted_snapshots.cli.units import duration
from assisted_snapshots.cli.units import human
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import State
from tests.unit.cli.conftest import Share

MIB = 1 << 20


def job(state: State = State.RUNNING, **more: object) -> Job:
    return Job('j1', Kind.DELETE, ('1',), ('s1',), 'guest', state,
               **more)  # type: ignore[arg-type]


def test_lines_are_few() -> None:
    out = io.StringIO()
    with Meter(out, 'delete s1', bar=False) as meter:
        for done in range(0, 101):
            meter.job(job(done_bytes=done * MIB, total_bytes=100 * MIB))
    lines = out.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == 'delete s1:  10 % 10.0 MiB of 100.0 MiB'
    assert lines[-2] == 'delete s1: 100 % 100.0 MiB of 100.0 MiB'
    assert lines[-1].startswith('delete s1: done after ')
    assert '/s' in lines[-1]


def test_a_new_note_is_a_new_line() -> None:
    out = io.StringIO()
    with Meter(out, 'x', bar=False) as meter:
        for condition in (Condition.OK, Condition.STALLED, Condition.STALLED):
            meter.job(job(done_bytes=MIB, total_bytes=2 * MIB,
                          condition=condition))
    assert [line for line in out.getvalue().splitlines()
            if 'stalled' in line] == ['x:  50 % 1.0 MiB of 2.0 MiB - stalled']


def test_a_failure_is_not_called_done() -> None:
    out = io.StringIO()
    with pytest.raises(KeyError), Meter(out, 'x', bar=False) as meter:
        meter.update(1, 4)
        raise KeyError
    assert 'x: stopped after ' in out.getvalue()
    assert 'done' not in out.getvalue()


def test_percentages_need_an_expectation() -> None:
    out = io.StringIO()
    with Meter(out, 'x', bar=False) as meter:
        meter.percent(50)
        assert not out.getvalue()
        meter.expect(4 * MIB)
        meter.percent(50)
    assert out.getvalue().startswith('x:  50 % 2.0 MiB of 4.0 MiB\n')


def test_holes_are_not_called_copied() -> None:
    out = io.StringIO()
    with Meter(out, 'x', bar=False) as meter:
        meter.follow(Places([(512 * MIB, 4 * MIB), (0, 4 * MIB)],
                            1024 * MIB))
        meter.job(job(done_bytes=514 * MIB, total_bytes=1024 * MIB))
        meter.percent(100)
    assert out.getvalue().splitlines()[:2] == [
        'x:  70 % 6.0 MiB of 8.0 MiB', 'x: 100 % 8.0 MiB of 8.0 MiB']


@pytest.mark.parametrize(('place', 'copied'), [
    (0, 0), (99, 0), (100, 0), (101, 1), (110, 10), (150, 10), (205, 15),
    (1000, 20)])
def test_places(place: int, copied: int) -> None:
    assert Places([(200, 10), (100, 10)], 1000).below(place) == copied
    assert Places([], 1000).below(place) == 0


@pytest.mark.parametrize(('snapshot', 'sizes'), [
    ('a', [(MIB, MIB)]), ('b', [(2 * MIB, MIB)]), ('c', None)])
def test_places_of_a_merge(chain: Share, snapshot: str,
                           sizes: list[tuple[int, int]] | None) -> None:
    files = VolumeFiles(chain.folder, 'volume-1')
    plan = Operations(files).plan(snapshot)
    places = of_merge(files, plan)
    if plan.direction is Direction.UP:
        sizes = [(plan.before.index(n) * MIB, MIB) for n in plan.removed]
    if sizes is None:
        assert places is None
    else:
        assert places is not None
        assert (places.total, places.size) == (MIB, 8 * MIB)
        assert places.below(sizes[0][0]) == 0
        assert places.below(sum(sizes[0])) == MIB


def test_nothing_is_shown_where_nothing_is_copied_or_quiet() -> None:
    out = io.StringIO()
    with Meter(out, 'x', bar=False):
        pass
    with Meter(out, 'x', bar=True, quiet=True) as meter:
        meter.update(1, 2)
    assert not out.getvalue()


def test_a_bar_ends_full_with_bytes_and_rate() -> None:
    out = io.StringIO()
    with Meter(out, 'delete [s1]', bar=True) as meter:
        meter.update(MIB, 2 * MIB, 'pivoting')
    assert 'delete [s1]' in out.getvalue()
    assert '2.0 MiB / 2.0 MiB' in out.getvalue()
    assert '/s' in out.getvalue()


def test_long_ids_leave_room_for_the_bar() -> None:
    assert shorten('delete 3b1f8a52-7c7e-4a1e-9f3e-0a4f2d1c5b6e') == (
        'delete 3b1f8a52…')
    assert shorten('revert to before-reboot') == 'revert to before-reboot'


@pytest.mark.parametrize(('found', 'note'), [
    (job(), ''), (job(State.ACCEPTED), ''), (job(State.FLUSHING), 'flushing'),
    (job(State.PIVOTING, paused=True), 'pivoting, paused'),
    (job(condition=Condition.NOT_CONVERGING), 'not converging')])
def test_notes(found: Job, note: str) -> None:
    assert note_of(found) == note


@pytest.mark.parametrize(('count', 'text'), [
    (0, '0 B'), (1023, '1023 B'), (1024, '1.0 KiB'), (1 << 20, '1.0 MiB'),
    (3 << 29, '1.5 GiB'), (1 << 62, '4096.0 PiB')])
def test_human(count: int, text: str) -> None:
    assert human(count) == text


@pytest.mark.parametrize(('seconds', 'text'), [
    (0.5, '0.50 s'), (12.34, '12.3 s'), (187, '3 min 07 s')])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def on_terminal(share: Share, *argv: str) -> tuple[str, str]:
    """Run the command with a terminal; its output and its stderr."""
    screen, terminal = pty.openpty()
    complaints, terminal2 = pty.openpty()
    subprocess.run(
        [sys.executable, '-m', 'assisted_snapshots.cli', *argv],
        stdout=terminal, stderr=terminal2, stdin=subprocess.DEVNULL,
        check=True, env={**os.environ, 'TERM': 'xterm-256color',
                         'COLUMNS': '120',
                         'ASSISTED_SNAPSHOT_SHARE': str(share.folder)})
    os.close(terminal)
    os.close(terminal2)
    return drain(screen), drain(complaints)


def drain(fd: int) -> str:
    """All that a terminal has shown."""
    shown = b''
    try:
        while piece := os.read(fd, 4096):
            shown += piece
    except OSError:  # Linux says EIO at its end
        pass
    os.close(fd)
    return shown.decode()


def test_a_terminal_gets_a_bar_and_colours(chain: Share) -> None:
    _, shown = on_terminal(chain, 'snapshot', 'delete', '1', 'b')
    assert '\x1b[' in shown
    assert 'delete b' in shown
    assert '━' in shown
    picture, shown = on_terminal(chain, 'chain', 'show', '1')
    assert '\x1b[1;32m' in picture
    assert not shown


def test_local_commands_do_not_load_the_message_bus(chain: Share) -> None:
    program = ('import sys; from assisted_snapshots.cli.main import main; '
               'main(sys.argv[1:]); heavy = {"oslo_messaging", "kombu", '
               '"eventlet", "rich", "cmd2"} & set(sys.modules); '
               'sys.exit(f"loaded: {heavy}" if heavy else 0)')
    for argv in (['chain', 'show', '1'], ['snapshot', 'delete', '1', 'b'],
                 ['plan', '1', 'a']):
        subprocess.run([sys.executable, '-c', program, '--share',
                        str(chain.folder), *argv], check=True)
