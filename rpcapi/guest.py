# SPDX-License-Identifier: Apache-2.0
"""A running guest's side of an operation, done by the host's agent.

:class:`AgentGuest` has the methods that ``chain.guest.GuestSide`` asks for,
in primitive types.  It submits a job and waits until it has ended.  Silence
is never taken for an answer: it asks again, which is safe because a request
submitted twice is one job, and gives up only after ``patience`` seconds
without any contact.  So is a chain that is asked for after a job: whoever asks
has to know what became of it.  Giving up does not end the job.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import TypeVar

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import LiveChain
from assisted_snapshots.rpcapi.messages import MergeRequest
from assisted_snapshots.rpcapi.messages import Quiesce
from assisted_snapshots.rpcapi.messages import SnapshotDisk
from assisted_snapshots.rpcapi.messages import State

_T = TypeVar('_T')

# Errors after which nobody knows what the agent has.
_SILENCE = (errors.PeerSilent, errors.BrokerUnreachable,
            errors.OutcomeUnknown)

# Seconds an answer may be held back.  Short, because an answer that is lost
# with the broker is missed only after this and the client's timeout.
_WAIT = 5.0

# Seconds between two questions where the answer came at once.
_PAUSE = 0.5

# Seconds that whoever takes the reports has to take that of a job that is
# done, and between two looks.
_TAKEN = 5.0
_GLANCE = 0.05


def _same(error: errors.AgentError) -> Exception:
    return error


def _ignore(_job: Job) -> None:
    pass


class AgentGuest:
    """Moves the disks of guests on one host, and waits until it is done.

    :param progress: called with each new state of the job.
    :param error: makes the exception that is raised from what went wrong;
        ``code`` tells the kinds apart.  By default the error itself.
    :param patience: seconds without contact until it gives up.
    :param bandwidth: bytes per second for merges, 0 for the agent's default.
    :param report: have the agent report the jobs, so that the hooks in Nova
        hear of them too: in time, as a rule, before a job that is done is
        called so here.
    """

    def __init__(self, client: AgentClient, *,
                 progress: Callable[[Job], None] = _ignore,
                 error: Callable[[errors.AgentError], Exception] = _same,
                 patience: float = 120.0, bandwidth: int = 0,
                 report: bool = False) -> None:
        self._client = client
        self._progress = progress
        self._error = error
        self._patience = patience
        self._bandwidth = bandwidth
        self._report = report
        self._has_job = False

    def chain(self, volume_id: str) -> tuple[str, ...] | None:
        """Return the live layers, base first; None if no guest has it."""
        try:
            return self._live(volume_id).names
        except errors.VolumeNotFound:
            return None
        except errors.AgentError as exc:
            raise self._error(exc) from exc

    def can_commit(self, volume_id: str) -> tuple[bool, str]:
        """Tell whether QEMU may write to a backing file, and the remedy."""
        try:
            live = self._live(volume_id)
        except errors.AgentError as exc:
            raise self._error(exc) from exc
        return live.can_commit, live.remedy

    def create(self, volume_id: str, snapshot_id: str, new_file: str,
               quiesce: str) -> str:
        """Move the guest onto the prepared overlay.

        :param quiesce: ``off``, ``try`` or ``require``.
        :returns: what the snapshot's content is worth: its consistency.
        """
        disk = SnapshotDisk(volume_id, snapshot_id, new_file)
        return self.create_all((disk,), quiesce).consistency

    def create_all(self, disks: tuple[SnapshotDisk, ...],
                   quiesce: str) -> Job:
        """Move several disks of one guest in one atomic transaction."""
        request = CreateRequest(disks, Quiesce(quiesce), self._report)
        return self._run(lambda: self._client.create_snapshot(request))

    def merge(self, volume_id: str, subject: str, kind: str,
              before: tuple[str, ...], merged: tuple[str, ...],
              survivor: str) -> None:
        """Merge layers; returns when it is done and durable."""
        request = MergeRequest(Kind(kind), volume_id, subject, before, merged,
                               survivor, self._bandwidth, self._report)
        self._run(lambda: self._client.merge(request))

    def extend(self, volume_id: str, size: int) -> None:
        """Let the disk grow; returns when the guest has been told."""
        asking = _Patient(self._patience)
        try:
            asking.ask(lambda: self._client.extend(volume_id, size))
        except errors.AgentError as exc:
            raise self._error(exc) from exc

    def _live(self, volume_id: str) -> LiveChain:
        """Ask for a chain; patiently if a job depends on the answer."""
        begun = time.monotonic()
        while True:
            try:
                return self._client.get_chain(volume_id)
            except (*_SILENCE, errors.HypervisorDown):
                patience = self._patience if self._has_job else 0.0
                if time.monotonic() - begun >= patience:
                    raise
            time.sleep(_PAUSE)

    def _note(self, job: Job) -> None:
        self._has_job = True
        self._progress(job)

    def _run(self, submit: Callable[[], Job]) -> Job:
        """Submit a job and wait for its end."""
        try:
            job = _Watch(self._client, submit, self._note,
                         self._patience).end()
        except errors.AgentError as exc:
            raise self._error(exc) from exc
        if job.state is State.DONE:
            self._let_report(job)
            return job
        raise self._error(_outcome(job))

    def _let_report(self, job: Job) -> None:
        """Give Nova a moment to write down on which layer its guest is.

        What is done stays done without that.
        """
        begun = time.monotonic()
        while job.unreported and time.monotonic() - begun < _TAKEN:
            time.sleep(_GLANCE)
            try:
                job = self._client.get_job(job.id)
            except errors.AgentError:
                return


class _Patient:
    """Asks again while there is no answer, until patience is over."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._heard = time.monotonic()
        self._unsure = False

    def ask(self, question: Callable[[], _T]) -> _T:
        """Ask until there is an answer."""
        while True:
            try:
                answer = question()
            except _SILENCE as exc:
                self._unsure = True
                self._bear(exc)
            except errors.HypervisorDown as exc:
                # A refusal, unless an earlier question may have got through.
                if not self._unsure:
                    raise
                self._bear(exc)
            else:
                self._heard = time.monotonic()
                return answer

    def _bear(self, exc: errors.AgentError) -> None:
        if time.monotonic() - self._heard > self._patience:
            raise exc
        time.sleep(_PAUSE)


class _Watch(_Patient):
    """One job, from its submission to its end."""

    def __init__(self, client: AgentClient, submit: Callable[[], Job],
                 progress: Callable[[Job], None], patience: float) -> None:
        super().__init__(patience)
        self._client = client
        self._submit = submit
        self._progress = progress
        self._lost = False

    def end(self) -> Job:
        """Return the ended job."""
        job = self.ask(self._submit)
        self._progress(job)
        while not job.state.final:
            newer = self._next(job)
            if (newer.id, newer.revision) == (job.id, job.revision):
                time.sleep(_PAUSE)
            else:
                self._progress(newer)
            job = newer
        return job

    def _next(self, job: Job) -> Job:
        try:
            return self.ask(lambda: self._client.wait_job(
                job.id, job.revision, _WAIT))
        except errors.JobNotFound as lost:
            # The agent lost its journal.  The request says exactly what is
            # to be done, so submitting it again cannot do more than that.
            if self._lost:
                raise
            self._lost = self._unsure = True
            try:
                return self.ask(self._submit)
            except errors.DiskBusy as exc:
                raise lost from exc  # by the lost job itself, perhaps


def _outcome(job: Job) -> errors.AgentError:
    if job.state is State.ABORTED:
        return errors.JobAborted(job_id=job.id, reason=job.note)
    return errors.JobFailed(job_id=job.id, reason=job.error,
                            job_code=job.error_code)
