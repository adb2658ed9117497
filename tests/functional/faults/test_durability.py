# SPDX-License-Identifier: Apache-2.0
"""What was reported done is on stable storage.

The guests here are idle: a guest that writes flushes QEMU's tables itself,
and would hide that nobody else did.
"""

from __future__ import annotations

from pathlib import Path
import subprocess

import libvirt
import libvirt_qemu
import pytest

from assisted_snapshots.agent import durability
from assisted_snapshots.chain import qcow2
from tests.functional.faults.scene import METHODS
from tests.functional.faults.scene import Scene
from tests.functional.faults.scene import Struck
from tests.functional.lab import audit
from tests.functional.lab import content
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.guest import Guest
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Volume
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import LARGE

#: The guest's device, as QEMU calls it.
DEVICE = '/machine/peripheral/virtio-disk0/virtio-backend'


@pytest.mark.parametrize('base', ['raw', 'qcow2'])
@pytest.mark.parametrize('method', METHODS)
def test_kill_after_done_loses_nothing(scene: Scene, method: str, base: str
                                       ) -> None:
    one = scene.one(base)
    one.pulls = method == 'pull'
    if not one.pulls:
        one.fill(LARGE)
    target, *_ = one.stack(*((300, 150, FEW) if method == 'commit'
                             else (300, 150)))
    one.idle()
    gone = set(one.live) - {one.delete(target).chains[one.volume.id][-1]}
    one.machine.kill()
    assert len(gone - one.volume.files()) == 1


def test_kill_after_a_pull_to_a_base_loses_nothing(scene: Scene) -> None:
    one = scene.one()
    one.pulls = True
    _, newest = one.stack(100, 200, 200)
    one.idle()
    one.delete(newest)
    one.machine.kill()


def test_bare_pull_loses_data(scene: Scene) -> None:
    """Without the flush the tests above would fail."""
    one = scene.one()
    one.stack(300, 150)
    one.idle()
    assert one.last is not None
    pull(one.machine, one.volume, None)
    one.volume.path.unlink()
    one.machine.kill()
    with pytest.raises((content.ContentError, images.ImageToolError)):
        content.prove(one.volume.active, 'qcow2', one.writer.pattern,
                      one.last)
    scene.watched.remove(one)


def pull(machine: Guest, volume: Volume, base: str | None) -> None:
    """Pull by bare libvirt calls, and wait until it says it is done."""
    device = machine.device(volume)
    flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE if base else 0
    machine.domain.blockRebase(device, base, 0, flags)
    waiting.until(lambda: not machine.domain.blockJobInfo(device),
                  'the end of the pull')


class Zeroes:
    """A volume of a paused guest: data in its base, zeroes above them.

    The guest's device discards what the base holds, so the layer above it
    has zero clusters and no data at all.
    """

    def __init__(self, scene: Scene) -> None:
        self.volume = scene.share.volume()
        self.machine = scene.stage.guest(self.volume)
        self.machine.start(paused=True)
        self.one = Struck(scene, self.machine, self.volume, 1, 0, '')
        self.io('write -P 9 0 1M')
        self.one.operations().create('one', 'off')
        self.io('discard 0 512k')
        self.one.operations().create('two', 'off')
        self.io('write -P 7 4M 64k')
        layer = self.volume.layer('one')
        assert list(qcow2.mapped(layer)) == [(0, MIB // 2)]
        assert list(qcow2.data_ranges(layer)) == []

    def io(self, command: str) -> None:
        """Do what the guest's device would do; nothing is flushed."""
        answer = libvirt_qemu.qemuMonitorCommand(
            self.machine.domain, f'qemu-io -d {DEVICE} "{command}"',
            libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        assert not answer.strip(), answer

    def shows_what_was_written(self, layer: Path) -> bool:
        """Whether nothing of the base comes through the zeroes."""
        reads = ('read -P 0 0 512k', 'read -P 9 512k 512k',
                 'read -P 7 4M 64k')
        try:
            images.io(layer, 'qcow2', reads)
        except subprocess.CalledProcessError:
            return False
        return True


def test_zeroes_survive_a_pull_to_a_base(scene: Scene) -> None:
    """What was zero is not filled with what the base holds."""
    zeroes = Zeroes(scene)
    zeroes.one.pulls = True
    zeroes.one.operations().delete('two')
    zeroes.machine.kill()
    audit.settled(zeroes.volume, ['one'])
    assert audit.layers(zeroes.volume) == zeroes.one.names('', 'two')
    assert zeroes.shows_what_was_written(zeroes.volume.active)


def test_zeroes_are_not_proven_before_they_are_flushed(scene: Scene) -> None:
    """The proof sees what a kill would lose, and that it is lost."""
    zeroes = Zeroes(scene)
    volume = zeroes.volume
    pull(zeroes.machine, volume, 'vda[1]')
    base, gone, survivor = zeroes.one.names('', 'one', 'two')
    assert zeroes.one.live == (base, survivor)
    formats = {name: 'qcow2' for name in (base, gone, survivor)}
    missing = durability.unproven(volume.folder, survivor, [gone], formats)
    assert gone in missing
    zeroes.machine.kill()
    assert not zeroes.shows_what_was_written(volume.layer('two'))
