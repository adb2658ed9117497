# SPDX-License-Identifier: Apache-2.0
"""Any sequence of requests, crashes and drivers, against a model of contents.

The model knows what each volume and snapshot shows, and nothing of layers.
A crash kills a process that was forked for one request, in front of one of
its effects; recovery then has to say what became of it, and the model only
accepts what reads as before the request or as after it.  Upstream's driver
takes its turns on the same files.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import dataclass
from dataclasses import field
import os
import shutil
import signal
import traceback
from typing import Any

from cinder import objects
from cinder.db import api as db_api
from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine
from oslo_config import cfg

from tests.functional.cinder.lab.content import Content
from tests.functional.cinder.lab.process import Effects
from tests.functional.cinder.lab.world import World
from tests.functional.lab import paths
from tests.functional.lab import waiting

MIB = 1 << 20
_VOLUMES = 3
_SNAPSHOTS = 4

picks = st.integers(0, 11)
bytes_ = st.integers(0, 255)
drivers = st.sampled_from(['driver', 'driver', 'upstream'])


@dataclass
class Model:
    """What a volume shows, and its snapshots, oldest first."""

    row: Any
    now: Content
    snapshots: dict[str, Content] = field(default_factory=dict)


class Machine(RuleBasedStateMachine):
    """Requests to one backend."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = paths.RUNNING / str(os.getpid()) / 'machine'
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.world = World(self.folder)
        self.volumes: list[Model] = []

    @initialize(qcow2=st.booleans())
    def start(self, qcow2: bool) -> None:
        cfg.CONF.set_override('service_down_time', 0)
        self.manager = self.world.make_manager(nfs_qcow2_volumes=qcow2)
        self.world.driver = self.manager.driver
        self.world.upstream = self.world.make_driver(
            'cinder.volume.drivers.nfs.NfsDriver', nfs_qcow2_volumes=qcow2)
        self._added(self.world.volume())

    def teardown(self) -> None:
        try:
            for model in self.volumes:
                self._proven(model)
            for model in list(self.volumes):
                for name in list(model.snapshots):
                    self.world.delete(objects.Snapshot(id=name))
                self.world.delete_volume(model.row)
            if self.volumes:
                assert list(self.world.share.iterdir()) == []
        finally:
            self.world.close()
            cfg.CONF.clear_override('service_down_time')
            shutil.rmtree(self.folder, ignore_errors=True)

    # Requests that end ----------------------------------------------------

    @rule(pick=picks, byte=bytes_, place=st.integers(0, 15))
    def write(self, pick: int, byte: int, place: int) -> None:
        model = self._pick(pick)
        self.world.write(model.row, byte, place * 3 * MIB // 4)
        model.now = self.world.content(model.row)

    @rule(pick=picks, who=drivers)
    def snapshot(self, pick: int, who: str) -> None:
        model = self._pick(pick)
        if len(model.snapshots) < _SNAPSHOTS:
            made = self.world.snapshot(model.row, driver=self._who(who))
            model.snapshots[made.id] = model.now

    @rule(pick=picks, which=picks, who=drivers)
    def delete(self, pick: int, which: int, who: str) -> None:
        model = self._pick(pick)
        if model.snapshots:
            name = _nth(model, which)
            self.world.delete(objects.Snapshot(id=name),
                              driver=self._who(who))
            del model.snapshots[name]
            self._proven(model)

    @precondition(lambda self: len(self.volumes) < _VOLUMES)
    @rule(pick=picks, more=st.integers(0, 1))
    def clone(self, pick: int, more: int) -> None:
        model = self._pick(pick)
        source = self.world.fresh(model.row)
        self._added(self.world.clone(source, source.size + more), model.now)

    @precondition(lambda self: len(self.volumes) < _VOLUMES)
    @rule(pick=picks, which=picks, more=st.integers(0, 1))
    def from_snapshot(self, pick: int, which: int, more: int) -> None:
        model = self._pick(pick)
        if model.snapshots:
            name = _nth(model, which)
            source = self.world.fresh(objects.Snapshot(id=name))
            self._added(self.world.from_snapshot(
                source, source.volume_size + more), model.snapshots[name])

    @rule(pick=picks)
    def revert(self, pick: int) -> None:
        model = self._pick(pick)
        if model.snapshots:
            self._revert(model)()
            model.now = self._reverted(model)
            self._proven(model)

    @rule(pick=picks)
    def extend(self, pick: int) -> None:
        model = self._pick(pick)
        row = self.world.fresh(model.row)
        if row.size < 3:
            self.world.driver.extend_volume(row, row.size + 1)
            self.world.settle(row, {'size': row.size + 1})
            model.now = Content((row.size) << 30, model.now.blocks)
            self._proven(model)

    # Requests that are cut ---------------------------------------------------

    @rule(pick=picks, at=st.integers(0, 14))
    def crash_snapshot(self, pick: int, at: int) -> None:
        model = self._pick(pick)
        row = self.world.snapshot_row(self.world.fresh(model.row))
        self._crash(at, lambda: self.world.driver.create_snapshot(
            self.world.fresh(row)))
        self._recover()
        row = self.world.fresh(row)
        assert row.status in ('available', 'error')
        if row.status == 'available':
            model.snapshots[row.id] = model.now
        else:
            self.world.delete(row)
        self._proven(model)

    @rule(pick=picks, which=picks, at=st.integers(0, 14))
    def crash_delete(self, pick: int, which: int, at: int) -> None:
        model = self._pick(pick)
        if not model.snapshots:
            return
        name = _nth(model, which)
        row = self.world.fresh(objects.Snapshot(id=name))
        row.status = 'deleting'
        row.save()
        self._crash(at, lambda: self.world.driver.delete_snapshot(row))
        self._recover()
        if not objects.Snapshot.exists(self.world.admin, name):
            del model.snapshots[name]
        else:
            assert self.world.fresh(row).status == 'available'
        self._proven(model)

    @rule(pick=picks, at=st.integers(0, 8))
    def crash_revert(self, pick: int, at: int) -> None:
        model = self._pick(pick)
        if not model.snapshots:
            return
        row = self.world.fresh(model.row)
        row.status = 'reverting'
        row.save()
        self._crash(at, self._revert(model))
        self._recover()
        row = self.world.fresh(row)
        if row.status == 'available':
            model.now = self._reverted(model)
        else:
            self.world.settle(row, {})
        self._proven(model)

    @rule(pick=picks, at=st.integers(0, 10))
    def crash_clone(self, pick: int, at: int) -> None:
        model = self._pick(pick)
        row = self.world.row(source_volid=model.row.id,
                             size=self.world.fresh(model.row).size)
        self._crash(at, lambda: self.world.driver.create_cloned_volume(
            row, self.world.fresh(model.row)))
        self._recover()
        self.world.delete_volume(row)
        assert not list(self.world.share.glob(f'{row.name}*'))
        self._proven(model)

    # How ---------------------------------------------------------------------

    def _crash(self, at: int, act: Callable[[], object]) -> None:
        """Do something in a process that is killed at some effect."""
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                try:
                    db_api.main_context_manager.writer.get_engine().dispose(
                        close=False)
                    with Effects(self.world.share).armed(at):
                        act()
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), status

    def _recover(self) -> None:
        """Let the recovery do what it does, and the manager too."""
        self.manager.driver.recovery.sweep()

        def over() -> bool:
            return not any(
                row.status in ('creating', 'deleting', 'reverting')
                for row in objects.SnapshotList.get_all(self.world.admin, {}))
        waiting.until(over, 'all snapshots in a true state', 20)

    def _revert(self, model: Model) -> Callable[[], object]:
        newest = self.world.fresh(objects.Snapshot(
            id=list(model.snapshots)[-1]))
        row = self.world.fresh(model.row)
        return lambda: self.world.driver.revert_to_snapshot(
            self.world.context, row, newest)

    def _reverted(self, model: Model) -> Content:
        """The newest snapshot's content; the volume keeps its size."""
        return Content(model.now.size,
                       list(model.snapshots.values())[-1].blocks)

    def _pick(self, pick: int) -> Model:
        return self.volumes[pick % len(self.volumes)]

    def _who(self, name: str) -> Any:
        return getattr(self.world, name)

    def _added(self, row: Any, of: Content | None = None) -> None:
        found = self.world.content(row)
        assert found.size == row.size << 30
        assert of is None or found.blocks == of.blocks
        self.volumes.append(Model(row, found))

    def _proven(self, model: Model) -> None:
        """Files, rows and contents are what the model says."""
        self.world.audit(model.row, *(objects.Snapshot(id=name)
                                      for name in model.snapshots))
        assert self.world.content(model.row) == model.now
        for name, content in model.snapshots.items():
            assert self.world.snapshot_content(objects.Snapshot(
                id=name, volume_id=model.row.id)) == content


def _nth(model: Model, which: int) -> str:
    return list(model.snapshots)[which % len(model.snapshots)]


Machine.TestCase.settings = settings(
    derandomize=True, max_examples=5, stateful_step_count=12, deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate))
TestMachine = Machine.TestCase
