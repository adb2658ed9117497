# SPDX-License-Identifier: Apache-2.0
"""Reports reach whoever wants them, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace

import oslo_messaging as messaging
import pytest

from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import State
from assisted_snapshots.rpcapi.reports import ReportEndpoint
from tests.functional.faults.scene import Scene
from tests.functional.faults.scene import Struck
from tests.functional.lab import waiting
from tests.functional.lab.guest import Moment
from tests.functional.lab.rabbit import Rabbit


class Consumer:
    """Takes reports while it listens."""

    def __init__(self, url: str, host: str) -> None:
        self.taken: list[Job] = []
        self._transport = transport.make(url=url)
        self._target = target.report(host)
        self._server: messaging.RPCServer | None = None

    def listen(self) -> None:
        """Begin to take reports."""
        self._server = messaging.get_rpc_server(
            self._transport, self._target,
            [ReportEndpoint(self.taken.append)])
        self._server.start()

    def close(self) -> None:
        """Leave the broker."""
        if self._server:
            self._server.stop()
            self._server.wait()
        self._transport.cleanup()

    def last(self, job: Job) -> Job | None:
        """The last report of a job, if it is final."""
        found = [r for r in self.taken if r.id == job.id]
        return found[-1] if found and found[-1].state.final else None


@pytest.fixture
def consumer(scene: Scene, rabbit: Rabbit) -> Iterator[Consumer]:
    """A consumer of the agent's reports; it does not listen yet."""
    made = Consumer(rabbit.url, scene.agent.host)
    yield made
    made.close()


def taken_snapshot(scene: Scene, one: Struck) -> Job:
    """A snapshot that wants a report, up to the agent's last word."""
    overlay = scene.share.overlay(one.volume, 'reported')
    with Moment(one.writer) as moment:
        job = one.ended(scene.client.create_snapshot(CreateRequest(
            (one.disk(overlay.name, 'reported'),), Quiesce.OFF,
            report=True)))
    one.expected['reported'] = moment.bounds
    assert len(one.operations().recover()) == 1  # .info, from the headers
    return job


def failed_snapshot(scene: Scene, one: Struck) -> Job:
    """A snapshot that fails after it was accepted, and wants a report."""
    overlay = scene.share.overlay(one.volume, 'refused')
    one.machine.suspend()
    job = scene.client.create_snapshot(CreateRequest(
        (one.disk(overlay.name, 'refused'),), Quiesce.REQUIRE, report=True))
    one.machine.resume()
    overlay.unlink()
    return one.ended(job)


@pytest.mark.parametrize('ending, state', [
    (taken_snapshot, State.DONE), (failed_snapshot, State.FAILED)])
def test_report_outlives_agent_and_consumer(
        scene: Scene, consumer: Consumer,
        ending: Callable[[Scene, Struck], Job], state: State) -> None:
    one = scene.one()
    scene.agent.options['reports.timeout'] = 1
    scene.agent.options['reports.retry_interval_max'] = 1
    scene.restart_agent()
    job = ending(scene, one)
    assert job.state is state
    scene.restart_agent()
    scene.restart_agent()
    assert consumer.taken == []
    consumer.listen()
    report = waiting.until(lambda: consumer.last(job), 'the report')
    assert report == job
    assert report.unreported
    known = replace(report, unreported=False)
    waiting.until(lambda: scene.client.get_job(job.id) == known,
                  'the acknowledgement')
