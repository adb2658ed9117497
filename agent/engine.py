# SPDX-License-Identifier: Apache-2.0
"""The loop that carries jobs out: observe, decide, act, look again.

A job is looked at when it is accepted, when libvirt tells of its guest, when
somebody changes it, after a reconnect, and every ``poll_interval`` seconds.
Each look is one step of :func:`~.decide.decide`, so a job that an earlier
process left is taken up by the very code that carries on a fresh one.

What a crash (of the agent, libvirtd or QEMU) can leave, and what then:

===========  ===================  =========================================
journal      the guest            then
===========  ===================  =========================================
nothing      as before            never accepted: the caller asks again
accepted     as before            begun, a snapshot only within its deadline
running,     before, no block     the call was not made, or has failed: it
not started  job                  is made again
running,     before, block job    the call was made: the job is adopted
not started
running      before, block job    waited for; its limit is set as journaled
running      before, no block     3 s without an event: failed, all files
             job, same QEMU       kept
running      before, new QEMU     the block job died with QEMU: begun again
running      shut off, before     10 s later merged by qemu-img, again from
                                  the start
running      after                the event was lost: goes on with flushing
running,     after                done; crash-consistent, as nobody knows
snapshot                          whether it was still frozen
running,     before               the call was not made: made again, within
snapshot                          the deadline; else failed
running,     frozen               thawed by the guard when the agent's pipe
snapshot                          closed, and by the next agent before all
pivoting     before, ready        pivoted (again)
pivoting     after                goes on with flushing
pivoting     gone                 guest-lost: nobody knows which layer was
                                  written to last; all files kept
flushing     after                flushed and proven (again); the guest
                                  resumed if it was suspended for that
flushing     shut off, after      proven on the files; what is missing is
                                  merged again from the removed layers;
                                  after a pivot not-durable instead, as the
                                  guest has written to the survivor since
flushing     gone                 proven on the files, or not-durable
flushing     before               chain-mismatch: somebody moved it back
any          another chain        chain-mismatch: nothing touched
accepted,    gone                 10 s later guest-state: the caller works
running                           on the files
final        any                  nothing; a report waits in the outbox
===========  ===================  =========================================
"""

from __future__ import annotations

from collections.abc import Callable
import logging
import queue
import threading
import time

from assisted_snapshots.agent import decide
from assisted_snapshots.agent.actions import MergeActions
from assisted_snapshots.agent.board import Task
from assisted_snapshots.agent.connection import Event
from assisted_snapshots.agent.decide import Do
from assisted_snapshots.agent.detached import FileActions
from assisted_snapshots.agent.observe import Observer
from assisted_snapshots.agent.observe import Sight
from assisted_snapshots.agent.quiesce import thaw_left_over
from assisted_snapshots.agent.record import Record
from assisted_snapshots.agent.snapshot import SnapshotActions
from assisted_snapshots.agent.tools import AT_ONCE
from assisted_snapshots.agent.tools import fail
from assisted_snapshots.agent.tools import HAND_OVER
from assisted_snapshots.agent.tools import LATER
from assisted_snapshots.agent.tools import Tools
from assisted_snapshots.agent.xml import SHUT_OFF
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Condition
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import State

LOG = logging.getLogger(__name__)

WORKERS = 16


class Engine:
    """Gives each unfinished job to a worker whenever it is due.

    A worker has a job for one step; no job is in two hands.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._board = tools.board
        self._observer = Observer(tools.hypervisor)
        self._files = FileActions(tools)
        self._merge = MergeActions(tools, self._files)
        self._snapshot = SnapshotActions(tools)
        self._left_frozen = self._board.left_frozen()
        self._lock = threading.Condition()
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f'worker-{i}',
                             daemon=True) for i in range(WORKERS)]
        self._loop = threading.Thread(target=self._run, name='engine',
                                      daemon=True)

    # Scheduling ---------------------------------------------------------

    def start(self) -> None:
        """Start the threads."""
        for thread in (*self._threads, self._loop):
            thread.start()

    def stop(self, seconds: float) -> None:
        """Take up no more steps; wait a while for those under way."""
        self._tools.stopping.set()
        with self._lock:
            self._lock.notify_all()
            self._lock.wait_for(
                lambda: not any(t.busy and not _at_files(t.record)
                                for t in self._board.tasks()), seconds)
        for _thread in self._threads:
            self._queue.put(None)

    def wake(self, job_id: str) -> None:
        """Look at a job now."""
        self._wake(lambda record: record.id == job_id)

    def on_event(self, event: Event | None) -> None:
        """Take note of libvirt's event; None for a new connection."""
        if event is None:
            if self._left_frozen:
                threading.Thread(target=self._thaw_left_over, name='thaw',
                                 daemon=True).start()
            self._wake(lambda record: True)
            return
        if event.verdict and event.verdict is not decide.Verdict.READY:
            for task in self._board.tasks():
                if task.record.uuid == event.uuid \
                        and task.record.device == event.device:
                    task.verdict = event.verdict
        self._wake(lambda record: record.uuid == event.uuid)

    def _wake(self, which: Callable[[Record], bool]) -> None:
        with self._lock:
            for task in self._board.tasks():
                if which(task.record):
                    task.again, task.due = True, 0.0
            self._lock.notify_all()

    def _run(self) -> None:
        while not self._tools.stopping.is_set():
            with self._lock:
                now = time.monotonic()
                idle = [t for t in self._board.tasks() if not t.busy]
                for task in idle:
                    if task.due <= now:
                        task.busy, task.again = True, False
                        self._queue.put(task)
                first = min((t.due for t in idle if not t.busy),
                            default=now + LATER)
                self._lock.wait(max(0.0, first - now))

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            delay = self._guarded(task, self._steps)
            if delay == HAND_OVER:
                threading.Thread(target=self._work_long, args=(task,),
                                 name='files', daemon=True).start()
            else:
                self._release(task, delay)

    def _work_long(self, task: Task) -> None:
        """Merge files; it would keep a worker for too long."""
        self._release(task, self._guarded(task, self._files.merge))

    def _release(self, task: Task, delay: float) -> None:
        """Take a task back from its worker."""
        with self._lock:
            task.busy = False
            task.due = 0.0 if task.again else time.monotonic() + delay
            self._lock.notify_all()
        if task.record.state.final:
            self._wake(lambda r: r.condition is Condition.WAITING)

    # Steps --------------------------------------------------------------

    def _guarded(self, task: Task, work: Callable[[Task], float]) -> float:
        """Do some work; a job survives whatever goes wrong in it."""
        note = ''
        try:
            return work(task)
        except errors.HypervisorDown as e:
            self._board.remark(task.record.id, note=str(e))
            return LATER  # the new connection wakes it
        except errors.AgentError as e:
            LOG.warning('job %s: %s', task.record.id, e)
            note = str(e)
        except Exception as e:
            LOG.exception('job %s stumbled', task.record.id)
            note = f'{type(e).__name__}: {e}'
        self._board.remark(task.record.id, note=note)
        return max(self._tools.settings().poll_interval, 1.0)

    def _steps(self, task: Task) -> float:
        """Step until there is reason to wait; returns for how long."""
        delay = AT_ONCE
        while delay == AT_ONCE and not task.record.state.final \
                and not self._tools.stopping.is_set():
            self._tidy(task.record)
            delay = self._step(task)
        return delay

    def _tidy(self, record: Record) -> None:
        """Undo what an earlier attempt may have left the guest in."""
        if record.frozen:
            thaw_left_over(self._tools.hypervisor, record.uuid)
            self._board.amend(record.id, frozen=False)
        if record.suspended:
            self._tools.hypervisor.resume(record.uuid)
            self._board.amend(record.id, suspended=False)

    def _thaw_left_over(self) -> None:
        """Thaw the guests of ended jobs that could not be thawed."""
        try:
            while self._left_frozen:
                record = self._left_frozen[-1]
                thaw_left_over(self._tools.hypervisor, record.uuid)
                self._board.thawed(record)
                self._left_frozen.pop()
        except errors.HypervisorDown as e:
            LOG.warning('guests may still be frozen: %s', e)

    def _step(self, task: Task) -> float:
        sight = self._observer.look(task, self._turn(task))
        limits = decide.Limits(
            create_deadline=self._tools.settings().create_deadline)
        action = decide.decide(task.record, sight.seen, limits)
        if action.do is not Do.WAIT:
            LOG.info('job %s (%s of %s): %s %s', task.record.id,
                     task.record.kind, ' '.join(task.record.subjects),
                     action.do, action.note)
        if action.do is Do.FAIL and action.error is not None:
            return fail(self._tools, task, action.error)
        if action.do is Do.ABORTED:
            return self._aborted(task, action.note)
        if task.record.kind is Kind.CREATE:
            return self._do_snapshot(task, sight, action)
        return self._do_merge(task, sight, action)

    def _turn(self, task: Task) -> bool:
        """Tell whether a merge may begin, and count it as running."""
        if task.record.kind is Kind.CREATE:
            return True
        with self._lock:
            running = sum(t.slot for t in self._board.tasks())
            if task.record.state is not State.ACCEPTED \
                    or running < self._tools.settings().max_running_jobs:
                task.slot = True
            return task.slot

    def _aborted(self, task: Task, note: str) -> float:
        record = task.record
        if record.attempts and record.method in ('commit', 'active-commit'):
            note += ('; what was committed remains in the lower layer, so '
                     'the content of the snapshot itself may be gone')
        self._board.amend(record.id, state=State.ABORTED,
                          condition=Condition.OK, note=note)
        return AT_ONCE

    def _do_snapshot(self, task: Task, sight: Sight,
                     action: decide.Action) -> float:
        match action.do:
            case Do.SNAPSHOT:
                return self._snapshot.snapshot(task, sight)
            case Do.FINISH:
                return self._snapshot.finish(task, action.note)
        return self._snapshot.wait(task, action)

    def _do_merge(self, task: Task, sight: Sight,
                  action: decide.Action) -> float:
        match action.do:
            case Do.START:
                return self._merge.start(task, sight)
            case Do.ADOPT:
                return self._merge.adopt(task)
            case Do.PIVOT:
                return self._merge.pivot(task)
            case Do.CANCEL:
                return self._merge.cancel(task)
            case Do.FLUSH:
                return self._merge.flush(task, sight)
            case Do.MERGE_FILES:
                return HAND_OVER
        return self._merge.wait(task, sight, action)


def _at_files(record: Record) -> bool:
    """Tell whether qemu-img is at work, which may be ended at any time."""
    return (record.kind is not Kind.CREATE and record.incarnation == SHUT_OFF
            and record.state is State.RUNNING)
