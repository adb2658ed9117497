# SPDX-License-Identifier: Apache-2.0
"""Errors cross the wire as what they are; their codes never change."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
import string
import sys

from oslo_messaging._drivers import common
import pytest

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import target

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass)
           if issubclass(c, errors.AgentError)]

# Part of the protocol: this list may grow, no line of it may change.
CODES = {
    'AgentError': 'error',
    'BadOverlay': 'bad-overlay',
    'BlockJobFailed': 'block-job-failed',
    'BrokerUnreachable': 'broker-unreachable',
    'ChainMismatch': 'chain-mismatch',
    'DeadlinePassed': 'deadline-passed',
    'DiskBusy': 'disk-busy',
    'GuestState': 'guest-state',
    'HypervisorDown': 'hypervisor-down',
    'InternalError': 'internal',
    'InvalidRequest': 'invalid-request',
    'JobAborted': 'job-aborted',
    'JobConflict': 'job-conflict',
    'JobFailed': 'job-failed',
    'JobNotFound': 'job-not-found',
    'JobState': 'job-state',
    'LibvirtFailed': 'libvirt-failed',
    'MultiAttached': 'multi-attached',
    'NotDurable': 'not-durable',
    'NotSupported': 'not-supported',
    'TooManyLayers': 'too-many-layers',
    'NotUnderstood': 'not-understood',
    'PeerSilent': 'peer-silent',
    'QuiesceFailed': 'quiesce-failed',
    'VolumeNotFound': 'volume-not-found',
}


def example(cls: type[errors.AgentError]) -> errors.AgentError:
    """An error of the class, every field filled in."""
    fields = {name: 7 if spec else f'the {name}' for _, name, spec, _
              in string.Formatter().parse(cls.message) if name}
    return cls(**fields)


def across(error: Exception) -> BaseException:
    """What the client's transport makes of an error raised remotely."""
    try:
        raise error
    except Exception:
        data = common.serialize_remote_exception(sys.exc_info())
    found: BaseException = common.deserialize_remote_exception(
        data, list(target.EXMODS))
    return found


def test_codes_never_change() -> None:
    assert CODES.items() <= {c.__name__: c.code for c in CLASSES}.items()


def test_codes_tell_apart() -> None:
    assert len({c.code for c in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize('cls', CLASSES)
def test_arrives_as_the_class_it_was_raised_as(
        cls: type[errors.AgentError]) -> None:
    error = example(cls)
    received = across(error)
    assert isinstance(received, cls)
    found = errors.plain(received)
    assert type(found) is cls
    assert str(found) == str(error)
    assert found.kwargs == error.kwargs


class Newer(errors.AgentError):
    """Stands for a class that only a newer peer has."""

    message = 'something new about {what}'


def test_class_of_a_newer_peer_keeps_its_sentence() -> None:
    found = errors.plain(Newer(what='layers'))
    assert type(found) is errors.AgentError
    assert str(found) == 'something new about layers'


def test_a_failed_job_keeps_the_agents_code() -> None:
    error = errors.JobFailed(job_id='j', reason='r', job_code='disk-busy')
    assert error.job_code == 'disk-busy'


def test_fields_of_any_kind_can_be_sent() -> None:
    sent = errors.BadOverlay(file=Path('/share/volume-1.s'),
                             reason=OSError(5, 'broken'))
    assert sent.kwargs == {'file': '/share/volume-1.s',
                           'reason': '[Errno 5] broken'}
    assert json.loads(json.dumps(sent.kwargs)) == sent.kwargs
