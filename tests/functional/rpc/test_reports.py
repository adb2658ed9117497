# SPDX-License-Identifier: Apache-2.0
"""Reports reach the callback endpoint, whoever is away meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import threading

import oslo_messaging as messaging
import pytest

from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State
from assisted_snapshots.rpcapi.reports import ReportEndpoint
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.rabbit import Rabbit
from tests.functional.rpc import seeds

JOBS = ('j1', 'j2', 'j3')


class Callback:
    """The endpoint in nova-compute, as the project's own class makes it."""

    def __init__(self, url: str, host: str) -> None:
        self.taken: list[Job] = []
        self.refuse: set[str] = set()
        self._lock = threading.Lock()
        self._transport = transport.make(url=url)
        self._server = messaging.get_rpc_server(
            self._transport, target.report(host),
            [ReportEndpoint(self._take)])

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()
        self._server.wait()
        self._transport.cleanup()

    def has(self, *names: str) -> bool:
        with self._lock:
            return set(names) <= {job.id for job in self.taken}

    def _take(self, job: Job) -> None:
        with self._lock:
            if job.id in self.refuse:
                raise RuntimeError('the volume is being moved')
            self.taken.append(job)


@pytest.fixture
def agent(lonely: Agent) -> Agent:
    """An agent that repeats reports soon; not started."""
    return impatient(lonely)


def impatient(agent: Agent) -> Agent:
    agent.options |= {'reports.timeout': 1, 'reports.retry_interval': 0.1,
                      'reports.retry_interval_max': 0.5}
    return agent


@pytest.fixture
def callback(rabbit: Rabbit, host: str) -> Iterator[Callback]:
    made = Callback(rabbit.url, host)
    yield made
    made.stop()


@pytest.fixture
def ended(agent: Agent) -> None:
    """Three jobs have ended and nobody knows yet."""
    seeds.plant(agent, *(seeds.merge_job(name, State.DONE, report=True)
                         for name in JOBS))


def complains(agent: Agent, times: int) -> Callable[[], bool]:
    return lambda: (agent.log.read_text().count('A report was not taken')
                    >= times)


@pytest.mark.usefixtures('ended')
def test_absent_endpoint_is_told_later_in_spite_of_a_crash(
        agent: Agent, callback: Callback) -> None:
    agent.start()
    waiting.until(complains(agent, 2), 'two attempts')
    agent.kill()
    agent.start()
    waiting.until(complains(agent, 4), 'two more attempts')
    callback.start()
    waiting.until(lambda: callback.has(*JOBS), 'all reports')
    assert {job.state for job in callback.taken} == {State.DONE}
    waiting.until(lambda: not seeds.unsent(agent), 'the outbox being empty')


@pytest.mark.usefixtures('ended')
def test_crash_after_delivery_delivers_again(
        agent: Agent, callback: Callback) -> None:
    """At least once: what was taken, but not noted, comes again."""
    agent.options['crash_at'] = 1
    callback.start()
    agent.start(ready=False)
    assert agent.wait() < 0
    agent.options['crash_at'] = 0
    agent.start()
    waiting.until(lambda: callback.has(*JOBS), 'all reports')


@pytest.mark.usefixtures('ended')
def test_refused_report_does_not_hold_up_the_others(
        agent: Agent, callback: Callback) -> None:
    callback.refuse = {'j1'}
    callback.start()
    agent.start()
    waiting.until(lambda: callback.has('j2', 'j3'), 'the other reports')
    assert not callback.has('j1')
    callback.refuse = set()
    waiting.until(lambda: callback.has('j1'), 'the refused report')


@pytest.mark.usefixtures('ended')
def test_broker_away_at_the_start(agent: Agent, rabbit: Rabbit,
                                  callback: Callback) -> None:
    callback.start()
    rabbit.terminate()
    agent.start(ready=False)
    waiting.until(complains(agent, 1), 'an attempt')
    rabbit.start()
    waiting.until(lambda: callback.has(*JOBS), 'all reports')


def test_acknowledged_reports_are_not_sent_again(
        agent: Agent, callback: Callback, ended: None) -> None:
    callback.start()
    agent.start()
    waiting.until(lambda: not seeds.unsent(agent), 'the outbox being empty')
    assert agent.terminate() == 0
    before = list(callback.taken)
    seeds.plant(agent, seeds.merge_job('j4', State.FAILED, report=True))
    agent.start()
    waiting.until(lambda: callback.has('j4'), 'the new report')
    assert [job.id for job in callback.taken[len(before):]] == ['j4']
