# SPDX-License-Identifier: Apache-2.0
"""Every way a call can end, over a real broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oslo_config import cfg
import oslo_messaging as messaging
import pytest

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi import transport
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import AgentInfo
from assisted_snapshots.rpcapi.messages import State
from assisted_snapshots.rpcapi.transport import Caller
from tests.functional.lab import ports
from tests.functional.lab.rabbit import Rabbit
from tests.functional.rpc.peer import Peer

Peers = Callable[..., Peer]
JOB: dict[str, Any] = {
    'id': 'j1', 'kind': 'create', 'volumes': ['v1'], 'subjects': ['s1'],
    'domain': 'guest', 'state': 'running'}


def raiser(error: Exception) -> Callable[..., Any]:
    def method(**_args: object) -> None:
        raise error
    return method


@pytest.mark.parametrize('error', [
    errors.VolumeNotFound(host='h', volume_id='v1'),
    errors.DiskBusy(device='vda', domain='g', job='commit'),
    errors.ChainMismatch(volume_id='v1', found=['a', 'b'], expected=['a']),
    errors.InvalidRequest(field='disks', reason='must be a list'),
    errors.HypervisorDown(uri='qemu:///system', reason='no socket'),
], ids=lambda error: error.code)
def test_error_arrives_as_it_was_raised(
        peer: Peers, client: AgentClient, error: errors.AgentError) -> None:
    peer(ping=raiser(error))
    with pytest.raises(errors.AgentError) as caught:
        client.ping()
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert caught.value.kwargs == error.kwargs


@pytest.mark.parametrize('error', [
    KeyError('layers'), ValueError('no'), messaging.MessagingException('m')])
def test_error_without_a_name(peer: Peers, client: AgentClient,
                              error: Exception) -> None:
    peer(ping=raiser(error))
    with pytest.raises(errors.InternalError, match=type(error).__name__):
        client.ping()


def test_agent_without_the_method(peer: Peers, client: AgentClient) -> None:
    peer(ping=lambda: {})
    with pytest.raises(errors.NotUnderstood) as caught:
        client.get_chain('v1')
    assert caught.value.kwargs['method'] == 'get_chain'


@pytest.mark.parametrize('version', ['0.9', '2.0'])
def test_agent_of_another_major_version(
        peer: Peers, client: AgentClient, version: str) -> None:
    peer(version=version, ping=lambda: {})
    with pytest.raises(errors.NotUnderstood) as caught:
        client.ping()
    assert caught.value.kwargs['version'] == '1.0'


def test_agent_too_old_for_a_method(peer: Peers, host: str,
                                    way: messaging.RPCTransport) -> None:
    there = peer(version='1.0', ping=lambda: {}, extend=lambda **_: {})
    caller = Caller(way, target.agent(host), 10)
    with pytest.raises(errors.NotUnderstood) as caught:
        caller.call('ping', version='1.1')
    assert caught.value.kwargs['version'] == '1.1'
    with pytest.raises(errors.NotUnderstood, match='does not support') as (
            caught):
        AgentClient(way, host).extend('v1', 1 << 30)
    assert caught.value.kwargs['version'] == '1.1'
    assert there.calls == []


def test_caller_with_an_exchange_of_its_own(
        peer: Peers, host: str, rabbit: Rabbit) -> None:
    """As the services have: Nova's is not Cinder's."""
    peer(ping=lambda: {'host': host})
    conf = cfg.ConfigOpts()
    conf([], project='nova', default_config_files=[], default_config_dirs=[])
    way = transport.make(conf, rabbit.url)
    conf.set_override('control_exchange', 'nova')
    try:
        assert AgentClient(way, host, 10).ping().host == host
    finally:
        way.cleanup()


def test_newer_agent_understands_us(peer: Peers, client: AgentClient) -> None:
    peer(version='1.7', ping=lambda: {'host': 'h', 'mood': 'good'})
    assert client.ping() == AgentInfo('h', '', '')


def test_older_agent_leaves_keys_out(peer: Peers,
                                     client: AgentClient) -> None:
    peer(get_job=lambda job_id: JOB)
    job = client.get_job('j1')
    assert (job.state, job.revision, job.chains) == (State.RUNNING, 0, {})


@pytest.mark.parametrize('answer', [
    None, 'done', {}, JOB | {'state': 'rewinding'}, JOB | {'id': '../j'}])
def test_answer_that_makes_no_sense(peer: Peers, client: AgentClient,
                                    answer: object) -> None:
    peer(get_job=lambda job_id: answer)
    with pytest.raises(errors.NotUnderstood, match='get_job'):
        client.get_job('j1')


@pytest.mark.parametrize('answer', [None, {}, {'jobs': 1}, {'jobs': [1]}])
def test_list_that_makes_no_sense(peer: Peers, client: AgentClient,
                                  answer: object) -> None:
    peer(list_jobs=lambda volume_id, unfinished: answer)
    with pytest.raises(errors.NotUnderstood, match='list_jobs'):
        client.list_jobs()


def test_nobody_listens(way: messaging.RPCTransport, host: str) -> None:
    with pytest.raises(errors.PeerSilent) as caught:
        AgentClient(way, host, timeout=1).ping()
    assert caught.value.kwargs['seconds'] == 1


def test_waiting_is_added_to_the_timeout(way: messaging.RPCTransport,
                                         host: str) -> None:
    with pytest.raises(errors.PeerSilent) as caught:
        AgentClient(way, host, timeout=1).wait_job('j1', 0, 2)
    assert caught.value.kwargs['seconds'] == 3


def test_request_that_was_given_up_is_never_found(
        peer: Peers, way: messaging.RPCTransport, host: str) -> None:
    """A snapshot asked for in vain must not be taken an hour later."""
    there = peer(ping=lambda: {'host': 'h'})
    there.stop()
    hasty = AgentClient(way, host, timeout=1)
    with pytest.raises(errors.PeerSilent):
        hasty.ping()
    there.start()
    assert AgentClient(way, host).ping().host == 'h'
    assert len(there.calls) == 1


def test_no_broker() -> None:
    url = f'rabbit://guest:guest@127.0.0.1:{ports.free(1)[0]}/'
    with pytest.raises(errors.BrokerUnreachable, match='refused'):
        AgentClient(transport.make(url=url), 'h').ping()


def test_wrong_password(rabbit: Rabbit) -> None:
    url = rabbit.url.replace('guest:guest', 'guest:wrong')
    with pytest.raises(errors.BrokerUnreachable, match='ACCESS_REFUSED'):
        AgentClient(transport.make(url=url), 'h').ping()
