# SPDX-License-Identifier: Apache-2.0
"""Situations with a guest that runs, and a Nova that errs or is lied about.

The guest is real.  Nova is the laboratory's stand-in, which does upstream's
own libvirt calls.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from contextlib import contextmanager
import threading
from typing import Any

from cinder import exception
from cinder.db import api as db
from oslo_db.exception import DBError
from sqlalchemy import event

from tests.functional.cinder.differential.scenario import expect
from tests.functional.cinder.differential.scenario import failing
from tests.functional.cinder.differential.scenario import scenario
from tests.functional.cinder.differential.scenario import Side
from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.inuse import InUse
from tests.functional.cinder.lab.nova import Behaviour
from tests.functional.cinder.lab.nova import Nova

HOST = 'compute-1'
#: More looks at a snapshot's row than anybody takes who waits between them.
_SPINNING = 1000


class Spins(Exception):
    """The driver reads the database without end."""


@contextmanager
def _in_use(side: Side) -> Iterator[tuple[InUse, Nova]]:
    """A guest that writes on a volume, and its Nova."""
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    one = boot(world, side.stage, driver, HOST, volume)[0]
    nova = Nova()
    nova.start()
    nova.introduce()
    nova.host(one)
    try:
        yield one, nova
        nova.settle()
    finally:
        nova.stop()
        one.guest.destroy()


@contextmanager
def _noticing_spin() -> Iterator[None]:
    """End a loop of this thread that only reads the database."""
    mine, seen = threading.get_ident(), 0

    def count(_connection: object, _cursor: object, statement: str,
              *_: object) -> None:
        nonlocal seen
        if threading.get_ident() == mine and 'FROM snapshots' in statement:
            seen += 1
            if seen > _SPINNING:
                # oslo.db makes a DBError of it.
                raise Spins(statement)

    engine = db.get_engine()
    event.listen(engine, 'before_cursor_execute', count)
    try:
        yield
    finally:
        event.remove(engine, 'before_cursor_execute', count)


def _whole(one: InUse) -> bool:
    """Every layer that the guest uses is on the share."""
    return all((one.disk.folder / name).exists() for name in one.chain())


@scenario('W7', 'While a snapshot of a running guest is taken, a user sets '
                'it to "available"')
def available(side: Side) -> None:
    with _in_use(side) as (one, nova):
        nova.behaviour = Behaviour(word='available')
        with failing(Spins, DBError,
                     means='the driver reads the database in a loop without '
                           'end, holding the lock'), _noticing_spin():
            one.take()
        expect(one.disk.info['active'] == one.chain()[-1],
               '.info names another layer than the guest writes to')


@scenario('W14', 'A snapshot is taken of a volume that was attached by the '
                 'old API, so that Cinder has no connection info')
def no_connection_info(side: Side) -> None:
    with _in_use(side) as (one, _nova):
        db.volume_attachment_update(one.world.admin, one.attachment.id,
                                    {'connection_info': None})
        with failing(TypeError, means='TypeError after the guest has moved '
                     'to the overlay; .info names the layer below'):
            one.take()
        expect(one.disk.info['active'] == one.chain()[-1],
               '.info names another layer than the guest writes to')


@scenario('W14a', "A snapshot is taken of a volume whose format is not in "
                  "Cinder's database, because it is older than that")
def no_format(side: Side) -> None:
    world, driver = side.world, side.driver()
    volume = world.volume(driver=driver)
    db.volume_admin_metadata_delete(world.admin, volume.id, 'format')
    row = world.snapshot_row(world.fresh(volume))
    with failing(KeyError, means="KeyError: 'format', and an overlay that "
                                 'nothing refers to'):
        snapshot = world.take(row, driver)
    world.audit(volume, snapshot)


@scenario('W15', 'The only snapshot of a running guest is deleted, and Nova '
                 'fails')
def failed_flatten(side: Side) -> None:
    with _in_use(side) as (one, nova):
        snapshot = one.take()
        before = one.world.formats(one.volume)
        nova.behaviour = Behaviour(before=_fail)
        with contextlib.suppress(exception.CinderException):
            one.delete(snapshot)
        found = one.world.formats(one.volume)
        expect(found['base_format'] == before['base_format'],
               'the database calls the raw base qcow2')
        expect(_whole(one), 'a layer that the guest uses was removed')


@scenario('W18', 'While the only snapshot of a running guest is deleted, a '
                 'user sets its progress to 90%')
def forged(side: Side) -> None:
    with _in_use(side) as (one, nova):
        snapshot = one.take()
        nova.behaviour = Behaviour(work=False, word='deleting')
        with contextlib.suppress(exception.CinderException):
            one.delete(snapshot)
        expect(_whole(one), 'the base is removed while the guest needs it')


def _fail(*_: Any) -> None:
    raise RuntimeError('as the hypervisor does')
