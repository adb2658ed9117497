# SPDX-License-Identifier: Apache-2.0
"""What to do next about a job: a pure function of record and observation.

The record says what was intended, the observation what is.  Nothing here
does I/O, reads a clock or remembers anything, so resuming after a crash is
the same code as the ordinary next step.

The verdict on a merge is the live chain: it equals the planned one or the
job has not succeeded.  An event alone proves nothing; it only tells sooner
that a job has failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
import enum

from assisted_snapshots.agent.record import Record
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import State


class Verdict(enum.StrEnum):
    """What a block job's event says."""

    READY = 'ready'
    COMPLETED = 'completed'
    FAILED = 'failed'
    CANCELED = 'canceled'


class Presence(enum.StrEnum):
    """What libvirt knows of a guest; paused guests are ACTIVE."""

    GONE = 'gone'
    OFF = 'off'
    ACTIVE = 'active'


class Do(enum.StrEnum):
    """What the engine can do about a job."""

    WAIT = 'wait'
    SNAPSHOT = 'snapshot'
    START = 'start'
    ADOPT = 'adopt'
    PIVOT = 'pivot'
    CANCEL = 'cancel'
    MERGE_FILES = 'merge files'
    FLUSH = 'flush'
    FINISH = 'finish'
    ABORTED = 'aborted'
    FAIL = 'fail'


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, and one sentence why."""

    do: Do
    note: str = ''
    error: errors.AgentError | None = None
    condition: Condition = Condition.OK


@dataclass(frozen=True, slots=True)
class Observation:
    """What is, at one moment.

    :ivar incarnation: libvirt's id of this run of the guest.
    :ivar chains: volume id -> layers; a volume that is not attached lacks.
    :ivar job: method of the block job on (one of) the disks, or empty.
    :ivar ready: that job can be pivoted.
    :ivar verdict: last event of the block job that was begun for the job.
    :ivar missing: seconds for which the expected block job or guest has not
        been there.
    :ivar age: seconds since the job was accepted.
    :ivar turn: one more merge may run.
    :ivar canceling: QEMU has been asked to give the block job up.
    :ivar unread: why the layers of a guest that is off cannot be told.
    """

    presence: Presence
    incarnation: int = 0
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    job: str = ''
    ready: bool = False
    verdict: Verdict | None = None
    missing: float = 0.0
    age: float = 0.0
    turn: bool = True
    canceling: bool = False
    unread: errors.AgentError | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be; times in seconds.

    :ivar create_deadline: a snapshot is begun by then or not at all.
    :ivar vanished: how long a block job may be gone before its event comes.
    :ivar absent: how long a guest or its disk may be gone: a hard reboot
        through Nova undefines and defines it again.
    :ivar off: how long a guest that was running may be off before its files
        are worked on, which keeps it from starting.
    :ivar attempts: how often work is begun.
    """

    create_deadline: float = 60.0
    vanished: float = 3.0
    absent: float = 10.0
    off: float = 10.0
    attempts: int = 20


def decide(record: Record, seen: Observation, limits: Limits) -> Action:
    """Return the next action of an unfinished job."""
    if seen.unread is not None:
        return _unread(record, seen.unread, seen, limits)
    lost = [v for v in record.volumes if v not in seen.chains]
    if seen.presence is Presence.GONE or lost:
        if record.state is State.FLUSHING or record.kind is not Kind.CREATE \
                and record.chains == record.after:
            # The guest had been on the planned chain; its files remain.
            return Action(Do.FLUSH)
        return _absent(record, seen, limits, lost)
    live = {v: seen.chains[v] for v in record.volumes}
    if live not in (record.before, record.after):
        return _mismatch(record, live)
    if record.kind is Kind.CREATE:
        return _create(record, seen, limits, live == record.after)
    if live == record.after:
        return _merged(record, seen)
    if record.state is State.FLUSHING:
        # The chain had been right already: somebody moved the guest back.
        return _mismatch(record, live)
    return _merge(record, seen, limits)


def _merge(record: Record, seen: Observation, limits: Limits) -> Action:
    """The live chain is as before."""
    if record.state is State.ACCEPTED:
        return _begin(record, seen)
    if seen.presence is Presence.OFF:
        return _guest_off(record, seen, limits)
    if seen.incarnation != record.incarnation:
        return _guest_restarted(record, seen, limits)
    if seen.job:
        return _block_job(record, seen)
    return _no_block_job(record, seen, limits)


def _fail(error: errors.AgentError) -> Action:
    return Action(Do.FAIL, error=error)


def _busy(record: Record, seen: Observation) -> Action:
    return _fail(errors.DiskBusy(
        domain=record.domain, device=record.device,
        job=f'a block job ({seen.job}) that is not of this agent'))


def _mismatch(record: Record, live: Mapping[str, tuple[str, ...]]) -> Action:
    """Neither before nor after: touch nothing."""
    wrong = [v for v in record.volumes
             if live[v] != record.after[v]] or list(record.volumes)
    volume = wrong[0]
    return _fail(errors.ChainMismatch(
        volume_id=volume, found=' <- '.join(live[volume]),
        expected=' <- '.join(record.after[volume])))


def _absent(record: Record, seen: Observation, limits: Limits,
            lost: list[str]) -> Action:
    """Guest or disk is not there; the caller works on the files then."""
    what = ('it is not known to libvirt any more'
            if seen.presence is Presence.GONE
            else f'volume {", ".join(lost)} is not attached any more')
    if seen.missing < limits.absent:
        return Action(Do.WAIT, what, condition=Condition.WAITING)
    if record.state is State.PIVOTING:
        return _fail(errors.GuestLost(domain=record.domain, reason=what))
    return _fail(errors.GuestState(domain=record.domain, reason=what))


def _unread(record: Record, why: errors.AgentError, seen: Observation,
            limits: Limits) -> Action:
    """Nobody can tell the chain; a crash of QEMU may have broken a layer."""
    if record.aborting:
        return Action(Do.ABORTED, f'aborted; {why}')
    if seen.missing < limits.absent:
        return Action(Do.WAIT, str(why), condition=Condition.WAITING)
    return _fail(why)


def _create(record: Record, seen: Observation, limits: Limits,
            moved: bool) -> Action:
    if moved:
        return Action(Do.FINISH, 'the guest runs on the new layers')
    if record.aborting:
        return Action(Do.ABORTED, 'aborted before anything was done')
    late = seen.age > limits.create_deadline
    if late and record.state is not State.ACCEPTED \
            and seen.missing < limits.vanished:
        # An earlier process may have called; libvirt may be about to do it.
        return Action(Do.WAIT, 'waits for an earlier call to show')
    if late:
        return _fail(errors.DeadlinePassed(seconds=limits.create_deadline))
    if seen.job:
        return _busy(record, seen)
    return Action(Do.SNAPSHOT)


def _merged(record: Record, seen: Observation) -> Action:
    """The live chain is the planned one."""
    if record.state is State.FLUSHING:
        return Action(Do.FLUSH)
    if seen.job and seen.job == record.method:
        return Action(Do.WAIT, 'waits for QEMU to end the block job')
    if seen.verdict is Verdict.FAILED:
        return _fail(errors.ChainMismatch(
            volume_id=record.volumes[0],
            found='the planned one although the block job failed',
            expected=' <- '.join(record.before[record.volumes[0]])))
    return Action(Do.FLUSH)


def _begin(record: Record, seen: Observation) -> Action:
    if record.aborting:
        return Action(Do.ABORTED, 'aborted before anything was done')
    if seen.job:
        return _busy(record, seen)
    if not seen.turn:
        return Action(Do.WAIT, 'waits until another merge has ended',
                      condition=Condition.WAITING)
    return Action(Do.MERGE_FILES if seen.presence is Presence.OFF
                  else Do.START)


def _guest_off(record: Record, seen: Observation, limits: Limits) -> Action:
    if record.aborting:
        return Action(Do.ABORTED, 'aborted; the guest is shut off')
    if record.incarnation > 0 and seen.missing < limits.off:
        return Action(Do.WAIT, 'the guest went off; it may be rebooting',
                      condition=Condition.WAITING)
    return _again(record, limits, Do.MERGE_FILES)


def _guest_restarted(record: Record, seen: Observation,
                     limits: Limits) -> Action:
    if seen.job:
        return _busy(record, seen)
    if record.aborting:
        return Action(Do.ABORTED, 'aborted; the guest was restarted')
    return _again(record, limits, Do.START)


def _again(record: Record, limits: Limits, do: Do) -> Action:
    if record.attempts >= limits.attempts:
        return _job_failed(record,
                           f'begun {record.attempts} times, never finished')
    return Action(do)


def _job_failed(record: Record, reason: str) -> Action:
    return _fail(errors.BlockJobFailed(
        method=record.method, device=record.device, domain=record.domain,
        reason=reason))


def _block_job(record: Record, seen: Observation) -> Action:
    """Our block job is there."""
    if seen.job != record.method:
        return _busy(record, seen)
    if not record.started:
        return Action(Do.ADOPT)
    if record.aborting:
        if seen.canceling:
            return Action(Do.WAIT, 'waits for QEMU to give the job up')
        return Action(Do.CANCEL)
    if seen.ready and not record.paused:
        return Action(Do.PIVOT)
    return Action(Do.WAIT)


def _no_block_job(record: Record, seen: Observation,
                  limits: Limits) -> Action:
    """Our block job is gone, or never was, and the chain is as before."""
    if record.aborting and (not record.started or seen.verdict
                            or seen.missing >= limits.vanished):
        return Action(Do.ABORTED, 'aborted; the chain is as it was')
    match seen.verdict:
        case Verdict.FAILED:
            return _job_failed(record, 'the log of the guest tells more')
        case Verdict.CANCELED if not record.aborting:
            return _job_failed(record, 'somebody else cancelled it')
        case Verdict.COMPLETED:
            return _mismatch(record, record.before)
    if not record.started:
        return _again(record, limits, Do.START)
    if seen.missing < limits.vanished:
        return Action(Do.WAIT, 'waits for word of the block job')
    return _job_failed(record, 'it is gone without a word')
