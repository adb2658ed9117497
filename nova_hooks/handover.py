# SPDX-License-Identifier: Apache-2.0
"""Hands Cinder's requests over to the agent, and hears what became of them.

It returns as soon as the agent has journaled the job.  A refusal reaches
Cinder as the status upstream's Nova would send, with the reason in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import logging
import threading
import time
from typing import Any

import oslo_messaging as messaging

from assisted_snapshots.nova_hooks.errors import HookError
from assisted_snapshots.nova_hooks.errors import Refused
from assisted_snapshots.nova_hooks.reports import DONE
from assisted_snapshots.nova_hooks.reports import Records
from assisted_snapshots.nova_hooks.reports import Reports
from assisted_snapshots.nova_hooks.requests import create_request
from assisted_snapshots.nova_hooks.requests import merge_request
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import target
from assisted_snapshots.rpcapi.client import AgentClient
from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State
from assisted_snapshots.rpcapi.reports import ReportEndpoint

LOG = logging.getLogger(__name__)

# Seconds between two attempts at an agent that does not answer.
_PAUSE = 1.0

_SILENCE = (errors.PeerSilent, errors.BrokerUnreachable,
            errors.HypervisorDown)


class Handover:
    """Between one nova-compute and the agent of its host.

    :param patience: seconds for which a request is repeated.
    :param interval: seconds between two updates of progress, 0 for none.
    """

    def __init__(self, agent: AgentClient, records: Records, *,
                 patience: float = 60.0, interval: float = 5.0) -> None:
        self._agent = agent
        self._records = records
        self._reports = Reports(agent, records)
        self._patience = patience
        self._interval = interval
        self._server: Any = None
        self._stopped = threading.Event()

    def start(self, transport: messaging.RPCTransport, host: str,
              topic: str = target.REPORT_TOPIC) -> None:
        """Begin to take reports."""
        self._server = messaging.get_rpc_server(
            transport, target.report(host, topic),
            [ReportEndpoint(self._reports.take)],
            access_policy=messaging.DefaultRPCAccessPolicy)
        self._server.start()
        if self._interval:
            threading.Thread(target=self._watch, daemon=True,
                             name='assisted-snapshot-progress').start()

    def stop(self) -> None:
        """Take no more reports; the agent keeps them."""
        self._stopped.set()
        if self._server is not None:
            self._server.stop()
            self._server.wait()

    def create(self, volume_id: str, create_info: Mapping[str, Any],
               busy: str = '') -> None:
        """Have a snapshot taken.

        :param busy: why the instance cannot have one now, if so.
        :raises Refused: there is no snapshot that Cinder could be told of.
        """
        snapshot_id = create_info.get('snapshot_id')
        if not isinstance(snapshot_id, str):
            raise Refused(what='create_info',
                          reason='snapshot_id is missing')

        def submit() -> Job:
            _refuse_if(busy)
            return self._agent.create_snapshot(
                create_request(volume_id, create_info))

        self._submit(snapshot_id, submit, 'creating', 'error')

    def delete(self, volume_id: str, snapshot_id: str,
               delete_info: Mapping[str, Any], busy: str = '') -> None:
        """Have a snapshot deleted; see :meth:`create`."""
        def submit() -> Job | None:
            _refuse_if(busy)
            try:
                request = merge_request(
                    volume_id, snapshot_id, delete_info,
                    self._agent.get_chain(volume_id).names)
            except Refused:
                done = self._done(volume_id, snapshot_id)
                if done is None:
                    raise
                return done
            return self._agent.merge(request) if request else None

        self._submit(snapshot_id, submit, 'deleting', 'error_deleting')

    def _done(self, volume_id: str, snapshot_id: str) -> Job | None:
        """Return the finished job of a delete that is asked for again."""
        return next((job for job in self._agent.list_jobs(volume_id)
                     if job.subjects == (snapshot_id,)
                     and job.state is State.DONE and job.kind == 'delete'),
                    None)

    def _submit(self, snapshot_id: str, submit: Callable[[], Job | None],
                good: str, bad: str) -> None:
        try:
            job = self._patiently(submit)
        except (HookError, errors.AgentError) as exc:
            LOG.error('Snapshot %s is refused: %s', snapshot_id, exc)
            self._tell(snapshot_id, bad)
            return
        if job is None:
            LOG.info('Snapshot %s: nothing is left to do', snapshot_id)
            self._tell(snapshot_id, good)
            return
        LOG.info('Snapshot %s is job %s of the agent', snapshot_id, job.id)
        if job.state.final:
            # It may have been reported for an earlier request already.
            self._reports.take(job)

    def _tell(self, snapshot_id: str, status: str) -> None:
        """Tell Cinder what no job, and so no report, will tell it."""
        begun = time.monotonic()
        while True:
            try:
                self._records.tell_cinder(snapshot_id, status, DONE)
                return
            except Exception as exc:
                if time.monotonic() - begun > self._patience:
                    raise
                LOG.warning('Cinder cannot be told %s of snapshot %s, '
                            'trying again: %s', status, snapshot_id, exc)
            if self._stopped.wait(_PAUSE):
                return

    def extend(self, volume_id: str, size: int) -> bool:
        """Tell whether a disk is at least that large, by the agent's doing.

        Cinder had the agent do it before, so mostly nothing is left to do.
        A disk that is larger has been extended once more since.
        """
        try:
            self._agent.extend(volume_id, size)
        except errors.WouldShrink as exc:
            LOG.info('%s', exc)
        except errors.AgentError as exc:
            LOG.info('The size of volume %s is left to Nova: %s', volume_id,
                     exc)
            return False
        return True

    def _patiently(self, submit: Callable[[], Job | None]) -> Job | None:
        """Ask again while nobody knows whether the agent has heard it."""
        begun = time.monotonic()
        while True:
            try:
                return submit()
            except _SILENCE as exc:
                if time.monotonic() - begun > self._patience:
                    raise
                LOG.warning('The agent does not answer, asking again: %s',
                            exc)
            time.sleep(_PAUSE)

    def _watch(self) -> None:
        """Pass on the progress of unfinished jobs."""
        while not self._stopped.wait(self._interval):
            try:
                for job in self._agent.list_jobs(unfinished=True):
                    self._reports.progress(job)
            except errors.AgentError as exc:
                LOG.debug('No progress: %s', exc)
            except Exception:
                LOG.warning('Progress could not be passed on',
                            exc_info=True)


def _refuse_if(busy: str) -> None:
    if busy:
        raise Refused(what='instance', reason=busy)
