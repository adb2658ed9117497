# SPDX-License-Identifier: Apache-2.0
"""Native work under eventlet, in processes that are really patched."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from assisted_snapshots.cinder_driver.native import home
from assisted_snapshots.cinder_driver.native import native

_PATCHED = '''
from cinder import monkey_patch
monkey_patch.patch()
import time
import eventlet
from eventlet import patcher
from assisted_snapshots.cinder_driver.native import home
from assisted_snapshots.cinder_driver.native import native
real = patcher.original('threading')
sleep = patcher.original('time').sleep
main = real.get_ident()
'''


def run(script: str) -> list[str]:
    """Run a script in a process that eventlet has patched."""
    done = subprocess.run(
        [sys.executable, '-c', _PATCHED + textwrap.dedent(script)],
        capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_without_eventlet_it_is_a_call() -> None:
    assert native(divmod, 7, 2) == (3, 1)
    assert home(divmod, 7, 2) == (3, 1)


def test_the_hub_goes_on() -> None:
    assert run('''
        seen = []
        def tick():
            while True:
                seen.append(1)
                eventlet.sleep(0.01)
        eventlet.spawn(tick)
        native(sleep, 0.5)
        print(len(seen) > 5)
    ''') == ['True']


def test_work_is_in_another_thread_and_home_is_not() -> None:
    assert run('''
        def work():
            return (real.get_ident() != main,
                    home(real.get_ident) == main,
                    native(real.get_ident) == real.get_ident())
        print(*native(work))
    ''') == ['True'] * 3


def test_errors_pass_both_ways() -> None:
    assert run('''
        def fail(kind):
            raise kind()
        def work():
            try:
                home(fail, KeyError)
            except KeyError:
                raise ValueError
        try:
            native(work)
        except ValueError as exc:
            print(type(exc.__context__).__name__)
    ''') == ['KeyError']


def test_many_at_once() -> None:
    assert run('''
        def work(n):
            sleep(0.05)
            return home(lambda: n * n)
        jobs = [eventlet.spawn(native, work, n) for n in range(50)]
        print(sum(job.wait() for job in jobs))
    ''') == [str(sum(n * n for n in range(50)))]


def test_long_work_keeps_nobody_else_waiting() -> None:
    assert run('''
        end = real.Event()
        jobs = [eventlet.spawn(native, end.wait) for n in range(40)]
        eventlet.sleep(0.5)
        with eventlet.Timeout(20):
            print(native(divmod, 7, 2)[0])
        end.set()
        print(all(job.wait() for job in jobs))
    ''') == ['3', 'True']


def test_nobody_waits_any_more() -> None:
    assert run('''
        told = []
        def work():
            sleep(0.3)
            try:
                home(print, 'never')
            except Exception as exc:
                told.append(type(exc).__name__)
        job = eventlet.spawn(native, work)
        eventlet.sleep(0.1)
        job.kill()
        while not told:
            eventlet.sleep(0.05)
        print(*told)
    ''') == ['Abandoned']
