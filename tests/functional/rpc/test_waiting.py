# SPDX-License-Identifier: Apache-2.0
"""wait_job holds its answer back until there is news, and harms nobody."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor

import pytest

from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State
from tests.functional.lab.agent import Agent
from tests.functional.rpc import seeds

CROWD = 48


@pytest.fixture
def client(lonely: Agent) -> AgentClient:
    """A client of an agent with a job that cannot begin."""
    seeds.plant(lonely, seeds.merge_job('j1', State.ACCEPTED),
                seeds.merge_job('j2', State.DONE))
    lonely.start()
    return lonely.client()


def ask(pool: ThreadPoolExecutor, client: AgentClient,
        job: Job) -> Future[Job]:
    return pool.submit(client.wait_job, job.id, job.revision, 30)


def calm(client: AgentClient) -> Job:
    """The job, once the agent has said why it waits."""
    job = client.get_job('j1')
    while not job.note:
        job = client.wait_job('j1', job.revision, 5)
    return job


def test_answers_when_there_is_news(client: AgentClient) -> None:
    with ThreadPoolExecutor() as pool:
        job = calm(client)
        waiting = ask(pool, client, job)
        changed = client.set_bandwidth('j1', 4096)
        found = waiting.result()
        assert found.revision > job.revision
        while found.revision < changed.revision:
            found = client.wait_job('j1', found.revision)
        assert found.bandwidth == 4096


def test_answers_at_once_about_an_older_revision(client: AgentClient) -> None:
    assert client.wait_job('j1', 0).id == 'j1'


def test_answers_at_once_about_an_ended_job(client: AgentClient) -> None:
    job = client.get_job('j2')
    assert client.wait_job('j2', job.revision) == job


def test_answers_unchanged_when_the_time_is_over(client: AgentClient) -> None:
    job = calm(client)
    assert client.wait_job('j1', job.revision, 0.2) == job


def test_a_crowd_keeps_nobody_out(client: AgentClient) -> None:
    """More wait than the agent has threads for requests."""
    with ThreadPoolExecutor(CROWD) as pool:
        job = calm(client)
        waiting = [ask(pool, client, job) for _ in range(CROWD)]
        assert client.ping().unfinished == 1
        changed = client.pause_job('j1')
        assert changed.paused
        for answer in waiting:
            assert answer.result().id == 'j1'


def test_stop_sends_waiting_clients_home(client: AgentClient,
                                         lonely: Agent) -> None:
    with ThreadPoolExecutor() as pool:
        job = calm(client)
        waiting = ask(pool, client, job)
        client.ping()
        assert lonely.terminate() == 0
        assert waiting.result() == job
