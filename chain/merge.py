# SPDX-License-Identifier: Apache-2.0
"""Merging layers of a volume that no guest writes to, with qemu-img.

:func:`merge` carries a plan out up to the point where nothing refers to the
removed layers any more.  It may be killed anywhere and called again with
the same plan: until the removed layers are unlinked they hold all there is,
so it goes back to them and starts over.

=====================  ==================================================
killed                 then
=====================  ==================================================
in a commit            the survivor holds part of what is above it; seen
                       from above, all is as before.  Commit again
in a pull              the survivor holds part of what is below it, which
                       changes nothing.  Pull again
in a pull, the header  what was copied may not be mapped yet: the header
changed already        is pointed back, then pulled again
before the child was   the child shows the same over either layer
re-pointed, or after
=====================  ==================================================

This module must never unlink anything, and never change a layer outside of
the plan other than the backing name of the child.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping

from assisted_snapshots.chain import errors
from assisted_snapshots.chain import qcow2
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.qemu_img import Image
from assisted_snapshots.chain.qemu_img import QemuImg
from assisted_snapshots.chain.reader import read_layers
from assisted_snapshots.chain.store import sync_file
from assisted_snapshots.chain.value import Format

Observer = Callable[[str], None]


def ignore(_step: str) -> None:
    """Observe nothing."""


def merge(files: VolumeFiles, plan: MergePlan, tool: QemuImg,
          observer: Observer = ignore) -> None:
    """Carry out a plan: copy, prove, re-point the child.

    Removed layers stay.  The caller keeps everybody else off the volume.

    :raises Disagreement: the headers are not those of the plan.
    :raises NotProven: the survivor does not hold what it must.
    """
    work = Merge(files, plan, tool, observer)
    work.copy()
    work.prove()
    work.repoint()


class Merge:
    """The parts of a merge, for callers that journal between them."""

    def __init__(self, files: VolumeFiles, plan: MergePlan, tool: QemuImg,
                 observer: Observer = ignore) -> None:
        self._files = files
        self._plan = plan
        self._tool = tool
        self._step = observer

    def copy(self) -> None:
        """Copy the data, from a state that holds all of them.

        :raises BadLayer: see :meth:`needed_bytes`.
        """
        self.needed_bytes()
        self._go_back()
        if self._plan.direction is Direction.DOWN:
            self._commit()
        else:
            self._pull()

    def prove(self) -> None:
        """Flush the survivor, and see that it holds all that will go.

        What the cluster tables do not show (zeroes need no cluster, nor
        what the layer below shows as well) is compared.
        """
        plan = self._plan
        tables = plan.formats[plan.survivor] is Format.QCOW2
        if tables:
            self._step('check the survivor')
            self._tool.mend(self._image(plan.survivor))
        self._step('flush the survivor')
        sync_file(self._files.path(plan.survivor))
        if not tables:
            return  # nothing to see; qemu-img's own flush has been checked
        self._step('prove the copy')
        if any(self._missing(name) for name in plan.removed) \
                and not self.shows_the_same():
            raise errors.NotProven(
                volume=plan.volume,
                reason=f'{plan.survivor} does not hold all data of '
                       f'{", ".join(plan.removed)}')

    def repoint(self) -> None:
        """Let the child lie on the survivor; see that it does."""
        plan = self._plan
        if plan.child and self._lies_on(plan.child, plan.merged[-1],
                                        plan.survivor) != plan.survivor:
            self._step('re-point the child')
            self._point(plan.child, plan.survivor)
        self.verify()

    def verify(self) -> None:
        """See that the headers on the share are those of the outcome."""
        plan = self._plan
        found = self._names(plan.after[-1])
        if found != plan.after:
            raise errors.Disagreement(
                volume=plan.volume,
                reason=f'the headers say {_list(found)}, planned was '
                       f'{_list(plan.after)}')

    def needed_bytes(self) -> int:
        """Return how many bytes the survivor may grow.

        :raises BadLayer: a layer that will go is cut off, say: QEMU would
            read zeroes there, and copy them.
        """
        plan = self._plan
        path = self._files.path(plan.survivor)
        if plan.formats[plan.survivor] is Format.RAW:
            held = qcow2.raw_data_ranges(path)
            top = read_layers(self._files, plan.merged[-1], plan.formats)
            room = top.virtual_size - sum(size for _, size in held)
            wanted = sum(size for name in plan.removed
                         for _, size in self._data(name))
            return min(wanted, max(0, room))
        return sum(size for name in plan.removed
                   for _, size in qcow2.gaps(qcow2.data_ranges(path),
                                             self._data(name)))

    def _go_back(self) -> None:
        """Undo the header changes of an attempt that was cut short."""
        plan = self._plan
        if plan.direction is Direction.DOWN:
            changed, before = plan.child, plan.merged[-1]
            after: str | None = plan.survivor
        else:
            changed, before = plan.survivor, plan.merged[-2]
            after = plan.new_backing
        if plan.child:
            self._lies_on(plan.child, plan.merged[-1], plan.survivor)
        if changed and self._lies_on(changed, before, after) != before:
            self._step('point back')
            self._point(changed, before)
        top = plan.merged[-1]
        expected = plan.before[:plan.before.index(top) + 1]
        if (found_names := self._names(top)) != expected:
            raise errors.Disagreement(
                volume=plan.volume,
                reason=f'the headers say {_list(found_names)}, planned was '
                       f'{_list(expected)}')

    def _commit(self) -> None:
        plan = self._plan
        top = self._image(plan.merged[-1])
        if not top.encrypted:
            self._step('commit')
            base = plan.survivor if len(plan.merged) > 2 else None
            self._tool.commit(top, base)
            return
        # With secrets qemu-img finds no layer but the next by its name.
        for name in reversed(plan.merged[1:]):
            self._step('commit')
            self._tool.commit(self._image(name))

    def _pull(self) -> None:
        plan = self._plan
        self._step('pull')
        below = plan.new_backing
        self._tool.pull(self._image(plan.survivor),
                        (below, plan.formats[below]) if below else None)

    def _point(self, name: str, backing: str) -> None:
        self._tool.repoint(self._alone(name),
                           (backing, self._plan.formats[backing]))
        sync_file(self._files.path(name))

    def _missing(self, name: str) -> bool:
        """Tell whether a removed layer holds what the survivor does not."""
        survivor = self._files.path(self._plan.survivor)
        held = (self._data(name) if self._plan.formats[name] is Format.RAW
                else qcow2.held(
                    self._files.path(name),
                    over_layers=self._plan.new_backing is not None))
        return not qcow2.covers(qcow2.mapped(survivor), held)

    def _data(self, name: str) -> Iterable[qcow2.Range]:
        path = self._files.path(name)
        if self._plan.formats[name] is Format.RAW:
            return qcow2.raw_data_ranges(path)
        return qcow2.data_ranges(path)

    def shows_the_same(self) -> bool:
        """Compare the survivor as it was with how it will be."""
        plan = self._plan
        self._step('compare')
        survivor = self._image(plan.survivor)
        if plan.direction is Direction.DOWN:
            return self._tool.same(self._image(plan.merged[-1]), survivor)
        below = plan.merged[-2]
        over = Image(survivor.name, survivor.format,
                     plan.before.index(survivor.name), survivor.encrypted)
        return self._tool.same(over, survivor,
                               over=(below, plan.formats[below]))

    def _lies_on(self, name: str, *possible: str | None) -> str | None:
        """Return what a layer lies on, which must be one of these."""
        found = qcow2.read_header(self._files.path(name)).backing
        if found not in possible:
            raise errors.Disagreement(
                volume=self._plan.volume,
                reason=f'{name} lies on {found}, planned was {possible[0]}')
        return found

    def _names(self, top: str) -> tuple[str, ...]:
        return read_layers(self._files, top, self._plan.formats).names

    def _image(self, name: str) -> Image:
        """Return a layer with all below it, as its headers are now."""
        return image(self._files, name, self._plan.formats)

    def _alone(self, name: str) -> Image:
        encrypted = qcow2.read_header(self._files.path(name)).encrypted
        return Image(name, self._plan.formats[name], 0, encrypted)


def image(files: VolumeFiles, name: str,
          formats: Mapping[str, Format]) -> Image:
    """Return a layer and what shows through it, checked."""
    chain = read_layers(files, name, formats)
    return Image(name, chain.active.format, len(chain.layers) - 1,
                 chain.active.encrypted)


def _list(names: Iterable[str]) -> str:
    return ' <- '.join(names)
