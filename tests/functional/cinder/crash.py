# SPDX-License-Identifier: Apache-2.0
"""Cases of a cinder-volume that is killed, and what must be true afterwards.

Each case is one request.  Before it lies a volume with some layers; the
model knows only contents.  Everything here runs in a child process, so it
is found by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
import functools
import time
from typing import Any

from cinder import objects
from cinder import quota
from cinder.db import api as db

from tests.functional.cinder.lab.content import Content
from tests.functional.cinder.lab.process import Effects
from tests.functional.cinder.lab.process import Joined
from tests.functional.cinder.lab.process import quiet
from tests.functional.lab import waiting

MIB = 1 << 20
_MOVING = ('creating', 'deleting', 'extending', 'reverting', 'restoring',
           'downloading')


@dataclass
class Known:
    """What was there before the request.

    :ivar snapshots: id -> content, oldest first.
    :ivar asked: id of the row that the request is about.
    """

    volume: str
    now: Content
    snapshots: dict[str, Content] = field(default_factory=dict)
    asked: str = ''


@dataclass(frozen=True)
class Case:
    """One request.

    :ivar layers: how many snapshots there are before it.
    :ivar method: of the driver, in which it is killed.
    :ivar ask: makes the row, as Cinder's API does; its id.
    :ivar promise: gives a row the status that the API gives it.
    :ivar act: does what the volume manager is asked to do.
    :ivar check: sees what has become of it, and repeats it if need be.
    """

    layers: int
    method: str
    ask: Callable[[Joined, Known], str]
    act: Callable[[Joined, Any, Known], object]
    check: Callable[[Joined, Any, Known], object]
    promise: Callable[[Joined, Known], object] = lambda world, known: None


# What Cinder's API does ----------------------------------------------------

def _usage(world: Joined, what: str, count: int) -> None:
    """Count something in or out, as the API and the manager do."""
    reserved = quota.QUOTAS.reserve(world.admin, project_id='project',
                                    **{what: count})
    quota.QUOTAS.commit(world.admin, reserved, project_id='project')


def ask_snapshot(world: Joined, volume: str) -> str:
    """Request a snapshot."""
    row = world.snapshot_row(world.fresh(objects.Volume(id=volume)))
    _usage(world, 'snapshots', 1)
    row.create_worker()
    return str(row.id)


def ask_deletion(world: Joined, known: Known) -> None:
    """Request the deletion of a snapshot."""
    row = _snapshot(world, known)
    row.status = 'deleting'
    row.save()


def ask_volume(world: Joined, known: Known, **values: Any) -> str:
    """Request a volume."""
    row = world.row(**values)
    _usage(world, 'volumes', 1)
    row.create_worker()
    return str(row.id)


# Requests, as the manager gets them ------------------------------------------

def _snapshot(world: Joined, known: Known) -> Any:
    return world.fresh(objects.Snapshot(id=known.asked))


def _volume(world: Joined, name: str) -> Any:
    return world.fresh(objects.Volume(id=name))


def create(world: Joined, manager: Any, known: Known) -> None:
    manager.create_snapshot(world.context, _snapshot(world, known))


def delete(world: Joined, manager: Any, known: Known) -> None:
    manager.delete_snapshot(world.context, _snapshot(world, known))


def make(world: Joined, manager: Any, known: Known) -> None:
    row = _volume(world, known.asked)
    manager.create_volume(world.context, row, request_spec=_spec(row),
                          filter_properties={}, allow_reschedule=False)


def _spec(row: Any) -> Any:
    return objects.RequestSpec.from_primitives({
        'volume_id': row.id, 'snapshot_id': row.snapshot_id,
        'source_volid': row.source_volid})


def remove(world: Joined, manager: Any, known: Known) -> None:
    manager.delete_volume(world.context, _volume(world, known.asked))


def extend(world: Joined, manager: Any, known: Known) -> None:
    reserved = quota.QUOTAS.reserve(world.admin, project_id='project',
                                    gigabytes=1)
    manager.extend_volume(world.context, _volume(world, known.asked), 2,
                          reserved)


def revert(world: Joined, manager: Any, known: Known) -> None:
    newest = list(known.snapshots)[-1]
    manager.revert_to_snapshot(
        world.context, _volume(world, known.volume),
        world.fresh(objects.Snapshot(id=newest)))


# What must be true afterwards -----------------------------------------------

def settled(world: Joined, manager: Any, seconds: float = 20) -> None:
    """Wait until no row promises work."""
    quiet(max(30, seconds))
    limit = time.monotonic() + seconds
    while moving := [
            f'{type(row).__name__} {row.id} is {row.status}'
            for rows in (objects.VolumeList.get_all(world.admin),
                         objects.SnapshotList.get_all(world.admin, {}))
            for row in rows if row.status in _MOVING]:
        assert time.monotonic() < limit, moving
        time.sleep(0.02)


def truth(world: Joined, known: Known) -> dict[str, str]:
    """See that chain and rows agree, and contents are the known ones.

    :returns: snapshot -> status.
    """
    rows = {row.id: row.status for row in
            objects.SnapshotList.get_all_for_volume(world.admin,
                                                    known.volume)}
    kept = [name for name in dict.fromkeys((*known.snapshots, known.asked))
            if rows.get(name) == 'available']
    world.audit(_volume(world, known.volume), *(
        objects.Snapshot(id=name) for name in kept))
    for name in kept:
        found = world.snapshot_content(objects.Snapshot(
            id=name, volume_id=known.volume))
        assert found == known.snapshots.get(name, known.now), name
    counted(world, len(rows))
    return rows


def counted(world: Joined, snapshots: int) -> None:
    """See the quota count so many snapshots.

    Cinder's manager counts a snapshot out after its row has gone.
    """
    def right() -> bool:
        used = db.quota_usage_get_all_by_project(world.admin, 'project')
        return bool(used['snapshots']['in_use'] == snapshots)
    waiting.until(right, f'a quota that counts {snapshots} snapshots', 20)


def unchanged(world: Joined, known: Known) -> None:
    """The volume shows what it showed."""
    assert world.content(_volume(world, known.volume)) == known.now


def created(world: Joined, manager: Any, known: Known) -> None:
    rows = truth(world, known)
    unchanged(world, known)
    assert rows.keys() == {*known.snapshots, known.asked}
    if rows[known.asked] == 'error':
        ask_deletion(world, known)
        delete(world, manager, known)
        known.asked = ask_snapshot(world, known.volume)
        create(world, manager, known)
    assert set(truth(world, known).values()) == {'available'}


def deleted(world: Joined, manager: Any, known: Known) -> None:
    rows = truth(world, known)
    unchanged(world, known)
    if known.asked in rows:
        assert rows[known.asked] == 'available'
        ask_deletion(world, known)
        delete(world, manager, known)
    assert truth(world, known).keys() == (
        known.snapshots.keys() - {known.asked})
    unchanged(world, known)


def made(world: Joined, manager: Any, known: Known, content: Content | None,
         **values: object) -> None:
    """A volume that could not be made is in error, and leaves nothing."""
    truth(world, known)
    unchanged(world, known)
    row = _volume(world, known.asked)
    assert row.status == 'error'
    remove(world, manager, known)
    assert not [path for path in world.share.iterdir()
                if known.asked in path.name]
    known.asked = ask_volume(world, known, **values)
    make(world, manager, known)
    row = _volume(world, known.asked)
    assert row.status == 'available'
    found = world.content(row)
    assert found.size == row.size << 30
    assert content is None or found.blocks == content.blocks
    world.audit(row)


def removed(world: Joined, manager: Any, known: Known) -> None:
    truth(world, known)
    assert not [path for path in world.share.iterdir()
                if known.asked in path.name]
    assert not objects.Volume.exists(world.admin, known.asked)


def extended(world: Joined, manager: Any, known: Known) -> None:
    truth(world, known)
    row = _volume(world, known.asked)
    assert row.status == 'available'
    if row.size == 1:
        ask_extend(world, known)
        extend(world, manager, known)
    row = _volume(world, known.asked)
    assert (row.size, row.status) == (2, 'available')
    found = world.content(row)
    assert (found.size, found.blocks) == (2 << 30, known.now.blocks)


def reverted(world: Joined, manager: Any, known: Known) -> None:
    rows = truth(world, known)
    assert set(rows.values()) == {'available'}
    row = _volume(world, known.volume)
    newest = list(known.snapshots)[-1]
    if row.status == 'error':
        unchanged(world, known)
        ask_revert(world, known)
        revert(world, manager, known)
    assert _volume(world, known.volume).status == 'available'
    assert world.content(row) == known.snapshots[newest]


def ask_revert(world: Joined, known: Known) -> None:
    row = _volume(world, known.volume)
    row.status = 'reverting'
    row.save()
    snapshot = world.fresh(objects.Snapshot(id=list(known.snapshots)[-1]))
    snapshot.status = 'restoring'
    snapshot.save()


def ask_extend(world: Joined, known: Known) -> None:
    row = _volume(world, known.volume)
    row.status = 'extending'
    row.save()


def another(world: Joined, known: Known) -> str:
    _usage(world, 'volumes', 1)
    return str(world.volume(driver=world.driver).id)


def ask_removal(world: Joined, known: Known) -> None:
    row = _volume(world, known.asked)
    row.status = 'deleting'
    row.save()
    row.create_worker()


def same(world: Joined, known: Known) -> str:
    return known.volume


def _place(known: Known, place: int) -> str:
    return list(known.snapshots)[place]


def _delete(layers: int, place: int) -> Case:
    return Case(layers, 'delete_snapshot',
                lambda world, known: _place(known, place),
                delete, deleted, ask_deletion)


def _create(layers: int) -> Case:
    return Case(layers, 'create_snapshot',
                lambda world, known: ask_snapshot(world, known.volume),
                create, created)


def _from(known: Known) -> dict[str, object]:
    return {'size': 2, 'snapshot_id': _place(known, 1)}


def _of(known: Known) -> dict[str, object]:
    return {'size': 1, 'source_volid': known.volume}


CASES = {
    'create-first': _create(0),
    'create': _create(1),
    'delete-only': _delete(1, 0),
    'delete-newest': _delete(2, 1),
    'delete-middle': _delete(3, 1),
    'delete-oldest': _delete(2, 0),
    'from-snapshot': Case(
        2, 'create_volume_from_snapshot',
        lambda world, known: ask_volume(world, known, **_from(known)), make,
        lambda world, manager, known: made(
            world, manager, known, known.snapshots[_place(known, 1)],
            **_from(known))),
    'clone': Case(
        1, 'create_cloned_volume',
        lambda world, known: ask_volume(world, known, **_of(known)), make,
        lambda world, manager, known: made(
            world, manager, known, known.now, **_of(known))),
    'create-volume': Case(
        0, 'create_volume', ask_volume, make,
        functools.partial(made, content=None)),
    'delete-volume': Case(0, 'delete_volume', another, remove, removed,
                          ask_removal),
    'extend': Case(1, 'extend_volume', same, extend, extended, ask_extend),
    'revert': Case(2, 'revert_to_snapshot', same, revert, reverted,
                   ask_revert),
}


# What children run --------------------------------------------------------

def prepare(world: Joined, name: str) -> Known:
    """Make what is there before the request, and the request."""
    case = CASES[name]
    # The first count is that of the rows there are, so begin with none.
    for what in ('volumes', 'snapshots'):
        _usage(world, what, 1)
        _usage(world, what, -1)
    volume = world.volume(driver=world.driver)
    _usage(world, 'volumes', 1)
    known = Known(volume.id, world.content(volume))
    for place in range(case.layers + 1):
        if place:
            known.snapshots[world.snapshot(volume).id] = known.now
            _usage(world, 'snapshots', 1)
        # Each hides a part of what is below, and leaves a part.
        world.write(volume, 0x11 + place, place * (MIB // 4), MIB // 2)
        world.write(volume, 0x71 + place, (4 + place) * MIB)
        known.now = world.content(volume)
    known.asked = case.ask(world, known)
    return known


def request(world: Joined, name: str, known: Known,
            at: int = -1) -> list[str]:
    """Handle the request, killed in front of an effect; all effects."""
    case = CASES[name]
    manager = world.serve()
    quiet()
    effects = Effects(world.share)
    whole = getattr(manager.driver, case.method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        with effects.armed(at):
            result = whole(*args, **kwargs)
            effects.happens('return')
            return result

    setattr(manager.driver, case.method, watched)
    case.promise(world, known)
    case.act(world, manager, known)
    return effects.seen


def recover(world: Joined, name: str, known: Known) -> None:
    """Start again, see that all is well, and repeat what failed."""
    manager = world.serve()
    settled(world, manager)
    CASES[name].check(world, manager, known)
    sweep = manager.driver.recovery.sweep()
    assert sweep == [], sweep
