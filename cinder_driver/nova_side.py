# SPDX-License-Identifier: Apache-2.0
"""A guest's side through a Nova that knows nothing of this project.

Requests and payloads are upstream's, so the active file never changes.
What Nova answers is only a hint: its word travels through a database field
that can be lost, come late, be left over, or be written by any user.  What
counts is the evidence on the share (:mod:`.evidence`).

==========================  ==============================================
Nova                        then
==========================  ==============================================
refuses (HTTP 4xx)          nothing was begun: GuestRefused
says done, or failed        looked for on the share; if QEMU neither works
                            nor has done it, given up soon
says nothing                waited for, while QEMU works without limit,
                            else for ``assisted_nova_patience``
cannot be reached           as if it had said "failed"
==========================  ==============================================

Giving up a create is safe: the overlay is withdrawn so that nobody can be
moved onto it later.  Giving up a merge leaves its intent in the journal
(:class:`Unsure`), because QEMU may end it later; asked again, the very same
merge is looked for first.  Killed in between, it is the same.

This module must never say that layers may go before the share shows it.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
from typing import Any
from typing import NoReturn

from cinder import compute
from cinder import exception
from cinder import objects
from cinder.db import api as db
from keystoneauth1 import exceptions as keystone
from oslo_log import log as logging

from assisted_snapshots.chain import errors
from assisted_snapshots.chain.guest import NOT_MOVED
from assisted_snapshots.cinder_driver import asked
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.evidence import Evidence
from assisted_snapshots.cinder_driver.evidence import Merging
from assisted_snapshots.cinder_driver.evidence import Names
from assisted_snapshots.cinder_driver.native import home

LOG = logging.getLogger(__name__)

#: What can be said of a snapshot that Nova took.
CONSISTENCY = 'crash-consistent'

# Seconds that the evidence may lag behind Nova's word.
_GRACE = 10.0

# Seconds that Nova's word may lag behind the evidence.
_WORD = 5.0

# Seconds that Nova may take to answer a request.
_ANSWER = 60.0

# Seconds between two looks, at first and at last.
_SOON, _LATE = 0.1, 2.0

# Nova was not even found.
_NEVER_SENT = (keystone.CatalogException, keystone.AuthorizationFailure,
               keystone.AuthPluginException)

_SHUT_OFF = 'stopped'


class Unsure(errors.ChainError):
    """Nova may or may not do it yet; the intent stays."""

    message = ('{volume}: {reason}; no file is removed, and the operation '
               'goes on when it is repeated')


class NovaSide:
    """Works on one volume's guest by Nova's assisted-snapshot API.

    :param snapshot: the snapshot that is being created or deleted.  For
        any other, Nova is not asked; it is only seen how things stand.
    """

    keeps_active = True

    def __init__(self, backend: Backend, volume: objects.Volume,
                 server_id: str,
                 snapshot: objects.Snapshot | None = None) -> None:
        self._backend = backend
        self._volume = volume
        self._server_id = server_id
        self._snapshot = snapshot
        self._subject = '' if snapshot is None else str(snapshot.id)
        self._evidence = Evidence(backend.files(volume))
        self._patience = float(
            backend.configuration.assisted_nova_patience)

    def chain(self, volume_id: str) -> Names | None:
        """Return the live layers; None if the server is shut off.

        :raises GuestRefused: nobody writes, but Nova does not call the
            server shut off; so who could begin to is not known.
        """
        live = self._evidence.chain()
        if live is None:
            state = self._server()
            if state != _SHUT_OFF:
                self._refuse('server-state',
                             f'server {self._server_id} is {state}, but no '
                             f'QEMU is seen to have the volume open')
        return live

    def can_commit(self, volume_id: str) -> tuple[bool, str]:
        """Leave it to Nova to refuse."""
        return True, ''

    def create(self, volume_id: str, snapshot_id: str, new_file: str,
               quiesce: str) -> str:
        """Have the server moved onto the prepared overlay."""
        if self._evidence.moved(new_file):
            return CONSISTENCY
        if not self._asks(snapshot_id):
            self._refuse('interrupted', 'the creation was interrupted')
        if quiesce == 'require':
            self._refuse('quiesce-failed',
                         'quiescing is required, which only the agent does')
        self._ready('active', 'paused')
        refusal = self._send(lambda: self._nova().create_volume_snapshot(
            self._context(), self._volume.id, {
                'snapshot_id': snapshot_id, 'type': 'qcow2',
                'new_file': new_file}))
        said = self._wait(lambda: self._evidence.moved(new_file),
                          lambda: False, 'error', refusal)
        if said:
            self._refuse('nova-failed', said)
        self._hear()
        return CONSISTENCY

    def merge(self, volume_id: str, subject: str, kind: str,
              before: Names, merged: Names, survivor: str) -> None:
        """Have layers merged; returns when it is seen to be durable."""
        merge = self._evidence.merge(before, merged, survivor)
        if not self._settled(merge):
            if not self._asks(subject):
                raise self._unsure(f'the merge for {subject} is unfinished')
            refusal = None if self._started(merge) else self._ask(merge)
            said = self._wait(lambda: self._settled(merge),
                              lambda: self._evidence.merging(merge),
                              'error_deleting', refusal, merge)
            if said:
                raise self._unsure(said)
            self._hear()
        asked.forget(self._backend, self._volume)

    def extend(self, volume_id: str, size: int) -> None:
        """Refuse: Nova resizes a disk to what Cinder has recorded already.

        So it can only be asked when the volume has grown; it is not then,
        and whether it comes to it cannot be known.
        """
        self._refuse('not-extended', (
            f'the running server {self._server_id} can only be told of a '
            f'larger volume by the agent on its host, and none answers '
            f'there; stop the server, or detach the volume'))

    # What is seen ---------------------------------------------------------

    def _started(self, merge: Merging) -> bool:
        return self._evidence.merging(merge) or self._evidence.merged(merge)

    def _settled(self, merge: Merging) -> bool:
        try:
            return (self._evidence.merged(merge)
                    and self._evidence.durable(merge))
        except errors.BadLayer as exc:
            # QEMU may be writing what is read.
            LOG.debug('Looking at %s: %s', self._volume.name, exc)
            return False

    # What is asked --------------------------------------------------------

    def _asks(self, snapshot_id: str) -> bool:
        return self._subject == snapshot_id

    def _ask(self, merge: Merging) -> str | None:
        """Ask for a merge; why it may not have arrived, if so.

        :raises GuestRefused: Nova has not taken it, and never has before.
        """
        before = asked.was_asked(self._backend, self._volume, asked.NOVA,
                                 self._subject)
        try:
            self._ready('active')
            asked.note(self._backend, self._volume, asked.NOVA,
                       self._subject)
            return self._send(lambda: self._nova().delete_volume_snapshot(
                self._context(), self._subject, {
                    'volume_id': self._volume.id, 'type': 'qcow2',
                    **_files(merge)}))
        except errors.GuestRefused as exc:
            if before:
                raise self._unsure(str(exc.fields['reason'])) from exc
            asked.forget(self._backend, self._volume)
            raise

    def _send(self, request: Callable[[], object]) -> str | None:
        """Send a request; why nobody knows whether it arrived, if so.

        The progress is set back before: that of an earlier attempt would
        look like the answer to this one.
        """
        home(self._set_back)
        failure = home(_outcome, request)
        if failure is None:
            return None
        if _is_refusal(failure):
            self._refuse('nova-refused', f'Nova refused: {failure}')
        LOG.warning('What has become of a request to Nova for volume %s is '
                    'not known: %s', self._volume.id, failure)
        return f'Nova could not be asked: {failure}'

    def _ready(self, *states: str) -> None:
        """See that the server is in a state in which this can work.

        :raises GuestRefused: it is not.
        """
        state = self._server()
        if state not in states:
            self._refuse('server-state',
                         f'server {self._server_id} is {state}, it has to '
                         f'be {" or ".join(states)}')

    def _server(self) -> str:
        """Return the server's state, or what Nova is doing with it."""
        try:
            server = home(lambda: self._nova().get_server(
                self._context(), self._server_id, privileged_user=True,
                timeout=_ANSWER))
        except exception.ServerNotFound:
            return 'not known to Nova'
        except Exception as exc:
            self._refuse('nova-away', f'Nova cannot be asked: {exc}')
        doing = getattr(server, 'OS-EXT-STS:task_state', None)
        state = getattr(server, 'OS-EXT-STS:vm_state', None)
        return str(doing or state or server.status).lower()

    # Waiting --------------------------------------------------------------

    def _wait(self, done: Callable[[], bool], busy: Callable[[], bool],
              failed: str, refusal: str | None,
              merge: Merging | None = None) -> str:
        """Wait for the evidence; why it is given up, empty when done.

        :param busy: QEMU is seen at work: there is no limit then.
        :param failed: the status by which Nova reports a failure.
        :raises GuestFailed: the guest is gone, so nobody works on it.
        """
        quiet = time.monotonic()
        pause = _SOON
        while not done():
            if busy():
                quiet = time.monotonic()
            elif self._evidence.chain() is None:
                raise errors.GuestFailed(
                    volume=self._volume.name, code=NOT_MOVED,
                    reason=f'server {self._server_id} went away')
            else:
                said, patience = self._patience_for(failed, refusal, merge)
                if time.monotonic() - quiet > patience and not done():
                    return said
            time.sleep(pause)
            pause = min(_LATE, pause * 1.2)
        return ''

    def _patience_for(self, failed: str, refusal: str | None,
                      merge: Merging | None) -> tuple[str, float]:
        """Return what to say when giving up, and after which time."""
        if merge is not None and self._evidence.merged(merge):
            return ('the merge has ended, but its result is not seen on '
                    'stable storage until the guest flushes its disk',
                    self._patience)
        status, progress = home(self._word)
        if status == failed:
            return f'Nova said that it failed ({status})', _GRACE
        if progress == '90%':
            return 'Nova said that it is done, but it is not', _GRACE
        if refusal:
            return refusal, _GRACE
        return ('Nova was asked, but nothing is seen to have been done',
                self._patience)

    def _hear(self) -> None:
        """Give Nova's word a moment to arrive while the snapshot waits.

        What is seen comes first, and Cinder refuses a word on a snapshot
        whose operation has ended; Nova would log that as an error.
        """
        end = time.monotonic() + _WORD
        while home(self._word)[1] != '90%' and time.monotonic() < end:
            time.sleep(_SOON)

    # The database, at home ------------------------------------------------

    def _word(self) -> tuple[str, str]:
        """Return status and progress, by which Nova answers."""
        try:
            row = db.snapshot_get(self._backend.context(), self._subject)
        except exception.SnapshotNotFound:
            return '', ''
        return str(row.status), str(row.progress)

    def _set_back(self) -> None:
        db.snapshot_update(self._backend.context(), self._subject,
                           {'progress': '0%'})

    def _context(self) -> Any:
        """The request's own, as upstream does: it has the catalogue."""
        if self._snapshot is None:
            return self._backend.context()
        return self._snapshot.obj_context

    def _nova(self) -> Any:
        return compute.API()

    # Errors ---------------------------------------------------------------

    def _refuse(self, code: str, reason: str) -> NoReturn:
        raise errors.GuestRefused(volume=self._volume.name, code=code,
                                  reason=reason)

    def _unsure(self, reason: str) -> Unsure:
        return Unsure(volume=self._volume.name, reason=reason)


def _outcome(request: Callable[[], object]) -> Exception | None:
    """Send a request; returns what went wrong.

    Cinder's client waits for an answer without limit, so it waits in a
    thread of its own, and what comes late is only logged.
    """
    outcome: list[Exception | None] = []

    def send() -> None:
        try:
            request()
            outcome.append(None)
        except Exception as exc:
            outcome.append(exc)

    thread = threading.Thread(target=send, name='nova-request', daemon=True)
    thread.start()
    thread.join(_ANSWER)
    return outcome[0] if outcome else TimeoutError(
        f'no answer within {_ANSWER:g} s')


def _files(merge: Merging) -> dict[str, str | None]:
    """Return what upstream's protocol calls the layers of a merge."""
    if merge.up:
        return {'file_to_merge': merge.below, 'merge_target_file': None}
    return {'file_to_merge': merge.merged[-1],
            'merge_target_file': merge.survivor}


def _is_refusal(error: Exception) -> bool:
    """Tell whether a request was surely not accepted."""
    status = getattr(error, 'code', None)
    if not isinstance(status, int):
        status = getattr(error, 'http_status', None)
    return isinstance(error, _NEVER_SENT) or (
        isinstance(status, int) and 400 <= status < 500)
