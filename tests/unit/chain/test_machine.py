# SPDX-License-Identifier: Apache-2.0
"""Any order of operations, crashes included, against a model of contents.

The model knows nothing of layers: a volume is some bytes, a snapshot is what
they were.  Hypothesis looks for an order of things that tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import shutil
import tempfile

from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine
import pytest

from assisted_snapshots.chain.operations import Operations
from assisted_snapshots.chain.value import Format
from tests.images import CLUSTER
from tests.images import Disk
from tests.images import MIB

# In front of which step the process dies; most of the time it does not.
cuts = st.one_of(st.just(99), st.integers(0, 9))
snapshots = st.runner().flatmap(
    lambda self: st.sampled_from(sorted(self.disk.snapshots)))


class Died(BaseException):
    """The process that ran the operation is no more."""


class Machine(RuleBasedStateMachine):
    """One volume and what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.disk = Disk(self.folder / 'share', 'raw')
        self.disk.files.folder.mkdir()
        self.taken = 0

    @initialize(kind=st.sampled_from(['raw', 'qcow2']))
    def make(self, kind: str) -> None:
        self.disk.kind = kind
        self.disk.make()

    @rule(at=st.integers(0, 15), clusters=st.integers(1, 8),
          byte=st.integers(0, 250), part=st.sampled_from([0, 512, 4096]))
    def write(self, at: int, clusters: int, byte: int, part: int) -> None:
        start = at * CLUSTER + part
        self.disk.write((start, min(clusters * CLUSTER,
                                    len(self.disk.now) - start), byte))

    @precondition(lambda self: len(self.disk.snapshots) < 5)
    @rule(cut=cuts)
    def create(self, cut: int) -> None:
        self.taken += 1
        name = f's{self.taken}'
        self.run(cut, lambda ops: ops.create(name),
                 lambda: self.disk.snapshots.update(
                     {name: bytes(self.disk.now)}))

    @precondition(lambda self: self.disk.snapshots)
    @rule(name=snapshots, cut=cuts, keep=st.booleans())
    def delete(self, name: str, cut: int, keep: bool) -> None:
        active = self.disk.operations().state().chain.active.name
        self.run(cut, lambda ops: ops.delete(name),
                 lambda: self.disk.snapshots.pop(name), keep)
        if keep:
            assert self.disk.operations().state().chain.active.name == active

    @precondition(lambda self: self.disk.snapshots)
    @rule(cut=cuts)
    def revert(self, cut: int) -> None:
        name = max(self.disk.snapshots, key=lambda name: int(name[1:]))
        size = len(self.disk.now)

        def expect() -> None:
            self.disk.now[:] = self.disk.snapshots[name].ljust(size, b'\0')

        self.run(cut, lambda ops: ops.revert(name), expect)

    @precondition(lambda self: len(self.disk.now) < 2 * MIB)
    @rule(sectors=st.integers(1, 600), cut=cuts)
    def extend(self, sectors: int, cut: int) -> None:
        size = len(self.disk.now) + 512 * sectors
        self.run(cut, lambda ops: ops.extend(size),
                 lambda: self.disk.now.extend(bytes(512 * sectors)))

    @precondition(lambda self: len(self.disk.snapshots) > 1)
    @rule(cut=cuts)
    def flatten(self, cut: int) -> None:
        self.run(cut, lambda ops: ops.flatten(delete_snapshots=True),
                 self.disk.snapshots.clear)

    @precondition(lambda self: self.disk.snapshots)
    @rule(name=snapshots, form=st.sampled_from(list(Format)))
    def clone(self, name: str, form: Format) -> None:
        self.copy(name, form, self.disk.snapshots[name])

    @rule(form=st.sampled_from(list(Format)))
    def clone_of_now(self, form: Format) -> None:
        self.copy(None, form, bytes(self.disk.now))

    def copy(self, name: str | None, form: Format, wanted: bytes) -> None:
        target = self.folder / 'clone'
        self.disk.operations().clone(name, target, form)
        copy = Disk(self.folder, self.disk.kind, name='clone')
        assert copy.content('clone', form) == wanted
        target.unlink()

    def run(self, cut: int, act: Callable[[Operations], object],
            expect: Callable[[], object], keep: bool = False) -> None:
        """Run an operation, maybe cut short, recovered and repeated."""
        left = cut

        def observer(_step: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Died

        try:
            act(self.disk.operations(observer=observer, keep_active=keep))
        except Died:
            self.disk.operations().recover()
            if not self.happened(expect):
                self.disk.verify()
                act(self.disk.operations(keep_active=keep))
        expect()
        state = self.disk.operations().state()
        assert state.snapshots.keys() == self.disk.snapshots.keys()
        self.disk.verify()

    def happened(self, expect: Callable[[], object]) -> bool:
        """Tell whether an operation has had its effect already."""
        now, known = bytes(self.disk.now), dict(self.disk.snapshots)
        expect()
        state = self.disk.operations().state()
        found = (state.snapshots.keys() == self.disk.snapshots.keys()
                 and self.disk.content(state.chain.active.name)
                 == self.disk.now)
        self.disk.now[:] = now
        self.disk.snapshots.clear()
        self.disk.snapshots.update(known)
        return found

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


Machine.TestCase.settings = settings(
    derandomize=True, max_examples=40, stateful_step_count=12, deadline=None,
    database=None, suppress_health_check=list(HealthCheck))
TestMachine = pytest.mark.slow(Machine.TestCase)
