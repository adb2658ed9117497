# SPDX-License-Identifier: Apache-2.0
"""Volumes in use, with a Nova that knows nothing of this project."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from cinder.compute import nova as cinder_nova
from oslo_config import cfg
import pytest

from tests.functional.cinder.lab.inuse import boot
from tests.functional.cinder.lab.inuse import InUse
from tests.functional.cinder.lab.nova import Nova
from tests.functional.cinder.lab.nova import Server
from tests.functional.cinder.lab.world import World
from tests.functional.lab.stage import Stage

HOST = 'compute-1'
BOTH = pytest.mark.parametrize('cow', [False, True], ids=['raw', 'qcow2'])


@pytest.fixture
def nova(cinder: World) -> Iterator[Nova]:
    """A Nova that Cinder is configured for."""
    service = Nova()
    service.start()
    group = cinder_nova.NOVA_GROUP
    cfg.CONF.set_override('auth_type', 'none', group)
    cinder_nova.ks_loading.register_auth_conf_options(cfg.CONF, group)
    cfg.CONF.register_opts(
        cinder_nova.ks_loading.get_auth_plugin_conf_options('none'), group)
    cfg.CONF.set_override('endpoint', service.url, group)
    yield service
    service.stop()
    service.settle()


@pytest.fixture
def scene(cinder: World, stage: Stage, nova: Nova
          ) -> Callable[..., InUse]:
    """Boots a guest that writes on a volume of the driver."""
    def make(**options: Any) -> InUse:
        driver = cinder.make_driver(**{'assisted_agent': 'never', **options})
        volume = cinder.volume(driver=driver)
        one = boot(cinder, stage, driver, HOST, volume)[0]
        nova.servers[one.guest.uuid] = Server(
            one.guest, {volume.id: one.disk},
            bdm={volume.id: one.attachment.connection_info})
        return one
    return make


@pytest.fixture
def one(scene: Callable[..., InUse]) -> InUse:
    """A guest with one raw volume."""
    return scene()


def payloads(nova: Nova, one: InUse) -> list[tuple[Any, ...]]:
    """What Nova was asked to delete, in names as in the tests."""
    return [(info['file_to_merge'], info['merge_target_file'])
            for kind, info in nova.requests if kind == 'delete']


@BOTH
def test_life(scene: Callable[..., InUse], nova: Nova, cow: bool) -> None:
    one = scene(nfs_qcow2_volumes=cow)
    oldest, middle, newest = (one.take() for _ in range(3))
    base = one.disk.name
    a, b, c = (f'{base}.{s.id}' for s in (oldest, middle, newest))
    one.check()
    for snapshot in (middle, newest, oldest):
        one.delete(snapshot)
        assert one.chain()[-1] == c
        one.check()
        one.snapshots_hold()
    assert payloads(nova, one) == [(b, a), (base, None), (None, None)]
    nova.settle()
    assert nova.servers[one.guest.uuid].bdm[one.volume.id]['name'] == c
    one.prove()
