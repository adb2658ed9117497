# SPDX-License-Identifier: Apache-2.0
"""A LUKS-encrypted volume: every layer is, and QEMU gets the secret."""

from __future__ import annotations

from assisted_snapshots.nova_hooks import definition
from assisted_snapshots.nova_hooks import guard
from tests.functional.lab import images
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SMALL
from tests.functional.ops.ground import Watched


def all_encrypted(one: Watched) -> None:
    """See that no layer is written in the clear."""
    found = images.chain(one.volume.active, 'qcow2')
    assert [bool(layer.get('encrypted')) for layer in found] == (
        [True] * len(one.live))


def test_every_direction(ground: Ground) -> None:
    """Few layers: QEMU takes seconds to make one, for its key."""
    one = ground.one(encrypted=True)
    s1, _s2, s3 = one.layers(LARGE + 8, SMALL, SMALL, LARGE - 8)
    all_encrypted(one)
    done(one.delete(s1), 'commit')
    done(one.delete(s3), 'pull')
    assert one.live == one.names('', s3)
    all_encrypted(one)
    one.snapshot_contents()
    done(one.flatten(), 'active-commit')
    assert one.live == one.names('')
    one.writer.write_more(FEW)


def test_a_new_guest_on_a_chain(ground: Ground) -> None:
    """libvirt starts it only if each layer's passphrase is named to it."""
    one = ground.one(encrypted=True)
    one.layers(SMALL, SMALL)
    last = one.writer.stop().acknowledged
    one.machine.destroy()
    active = one.volume.active
    (layer,) = guard.layers([{'connection_info': {
        'serial': one.volume.id, 'data': {
            'name': active.name, 'format': 'qcow2', 'encrypted': True,
            'export': '', 'device_path': str(active)}}}]).values()
    assert [source.path.name for source in layer.below] == [
        *reversed(one.live[:-1])]
    connection = one.machine.domain.connect()
    connection.defineXML(definition.repointed(
        one.machine.xml(), {one.volume.id: layer}))
    one.machine.start()
    one.writer.start(last)
    one.snapshot_contents()
