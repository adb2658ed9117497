# SPDX-License-Identifier: Apache-2.0
"""What the agent tells of itself, its jobs and the volumes of its host."""

from __future__ import annotations

import uuid

import pytest

from assisted_snapshots.rpcapi import errors
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SMALL


def version(number: int) -> str:
    """A version as libvirt counts it, written out."""
    return f'{number // 1000000}.{number // 1000 % 1000}.{number % 1000}'


def test_agent_tells_of_itself(ground: Ground, shared_agent: Agent,
                               libvirtd: Libvirtd) -> None:
    # It listens before it is connected to libvirtd.
    waiting.until(lambda: not ground.client.ping().problem, 'a connection')
    told = ground.client.ping()
    assert (told.host, told.rpc_version, told.problem) == (
        shared_agent.host, '1.1', '')
    assert told.libvirt == version(libvirtd.connection.getLibVersion())
    assert told.qemu == version(libvirtd.connection.getVersion())


def test_chain_and_jobs_of_a_volume(ground: Ground) -> None:
    one = ground.one('raw')
    client, volume = ground.client, one.volume.id
    assert client.list_jobs(volume) == ()
    s1, s2 = one.layers(SMALL, LARGE, SMALL)
    chain = client.get_chain(volume)
    assert [(n.name, n.format) for n in chain.layers] == list(zip(
        one.live, ('raw', 'qcow2', 'qcow2'), strict=True))
    assert (chain.domain, chain.device) == (one.machine.name, 'vda')
    assert (chain.running, chain.can_commit, chain.job_id) == (
        True, True, '')
    job, rest = one.deleting(s1)
    assert client.get_chain(volume).job_id == job.id
    assert [j.id for j in client.list_jobs(volume, True)] == [job.id]
    assert job.id in {j.id for j in client.list_jobs(unfinished=True)}
    assert client.ping().unfinished >= 1
    client.set_bandwidth(job.id, 0)
    end = rest.result(60)
    assert (end.total_bytes, end.done_bytes) == (end.total_bytes,) * 2
    assert end.chains == {volume: one.live}
    assert [j.subjects for j in client.list_jobs(volume)] == [
        (s1,), (s2,), (s1,)]
    assert client.list_jobs(volume, True) == ()
    assert client.get_job(job.id) == end
    one.stop()
    one.machine.destroy()
    chain = client.get_chain(volume)
    assert (chain.names, chain.running) == (one.names('', s2), False)


def test_what_is_not_there(ground: Ground) -> None:
    nobody = str(uuid.uuid4())
    for ask in (ground.client.get_job, ground.client.abort_job,
                ground.client.pause_job,
                lambda job: ground.client.wait_job(job, 0, 30)):
        with pytest.raises(errors.JobNotFound):
            ask(nobody)
    with pytest.raises(errors.VolumeNotFound):
        ground.client.get_chain(nobody)
    assert ground.client.list_jobs(nobody) == ()
