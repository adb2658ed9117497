# SPDX-License-Identifier: Apache-2.0
"""What is refused: each with its own error, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import json
import os
from pathlib import Path
import uuid
from xml.etree import ElementTree as ET

import libvirt
import pytest

from assisted_snapshots.chain.errors import GuestFailed
from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Volume
from tests.functional.ops.ground import done
from tests.functional.ops.ground import FEW
from tests.functional.ops.ground import Ground
from tests.functional.ops.ground import LARGE
from tests.functional.ops.ground import SMALL
from tests.functional.ops.ground import Watched

# --- overlays ---------------------------------------------------------------


def overlay(path: Path, backing: Path, size: int | None = None,
            fmt: str = 'qcow2') -> None:
    """An overlay on this layer, made by hand."""
    images.create(path, 'qcow2', size, backing=backing, backing_format=fmt)


def absolute_backing(path: Path, active: Path) -> None:
    images.run('create', '-q', '-f', 'qcow2', '-u', '-b', active, '-F',
               'qcow2', path, str(64 * MIB))


def data_file(path: Path, active: Path) -> None:
    # Made without a backing file, which qemu-img would want to open.
    images.run('create', '-q', '-f', 'qcow2', '-o',
               f'data_file={path.name}-data', path, str(64 * MIB),
               cwd=path.parent)
    images.run('rebase', '-u', '-f', 'qcow2', '-b', active.name, '-F',
               'qcow2', path, cwd=path.parent)


def with_data(path: Path, active: Path) -> None:
    images.create(path, 'qcow2', 64 * MIB)
    images.io(path, 'qcow2', ['write -P 1 1M 64k'])
    images.run('rebase', '-u', '-f', 'qcow2', '-b', active.name, '-F',
               'qcow2', path)


def symlink(path: Path, active: Path) -> None:
    target = path.with_name(path.name + '-target')
    overlay(target, active)
    path.symlink_to(target.name)


def encrypted(path: Path, active: Path) -> None:
    images.create(path, 'qcow2', backing=active, backing_format='qcow2',
                  secret=b'secret')


def corrupt(path: Path, active: Path) -> None:
    overlay(path, active)
    with open(path, 'r+b') as file:
        file.seek(72)
        file.write((1 << 40).to_bytes(8, 'big'))  # an unknown feature


def outside(path: Path, active: Path) -> None:
    images.run('create', '-q', '-f', 'qcow2', '-u', '-b',
               f'../share/{active.name}', '-F', 'qcow2', path,
               str(64 * MIB))


UNFIT: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    'missing': (lambda path, active: None, 'is not there'),
    'on the base': (lambda path, active: overlay(
        path, active.with_name(active.name.partition('.')[0])), 'lies on'),
    'on nothing': (lambda path, active: images.create(
        path, 'qcow2', 64 * MIB), 'lies on None'),
    'on an absolute path': (absolute_backing, 'slash'),
    'on a path outside': (outside, 'slash'),
    'larger': (lambda path, active: overlay(path, active, 65 * MIB),
               'virtual size'),
    'smaller': (lambda path, active: overlay(path, active, 63 * MIB),
                'virtual size'),
    'raw pinned': (lambda path, active: overlay(path, active, 64 * MIB,
                                                'raw'), 'pins raw'),
    'holding data': (with_data, 'holds data'),
    'with a data file': (data_file, 'data'),
    'with an unknown feature': (corrupt, 'feature'),
    'encrypted': (encrypted, 'encrypted'),
    'no qcow2': (lambda path, active: path.write_bytes(bytes(65536)),
                 'magic|qcow2'),
    'empty': (lambda path, active: path.touch(), 'truncated|short|empty'),
    'a symlink': (symlink, 'symlink|symbolic'),
    'a folder': (lambda path, active: path.mkdir(), 'regular'),
    'a pipe': (lambda path, active: os.mkfifo(path), 'regular'),
}
NAMES = ('/etc/passwd', '../volume-x', 'sub/volume-x', '..', '', '-x',
         'a\nb', 'nbd:x')


def test_unfit_overlays(ground: Ground) -> None:
    one = ground.one()
    one.layers(SMALL, SMALL)
    active = one.volume.active
    for case, (make, reason) in UNFIT.items():
        path = one.volume.layer(case.replace(' ', '-'))
        make(path, active)
        with told(case), pytest.raises(errors.BadOverlay, match=reason):
            one.unchanged(one.offer, path.name)
        clear(path)
    for name in (*NAMES, str(active)):
        with told(name), pytest.raises(errors.InvalidRequest,
                                       match='new_file'):
            one.unchanged(one.offer, name)
    with pytest.raises(errors.BadOverlay):
        one.unchanged(one.offer, one.volume.name)
    assert [j.kind for j in ground.client.list_jobs(one.volume.id)] == [
        Kind.CREATE]
    one.writer.write_more(FEW)


class told:
    """Names the case that failed."""

    def __init__(self, case: str) -> None:
        self._case = case

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None,
                 trace: object) -> None:
        if error is not None:
            error.add_note(f'the case: {self._case!r}')


def clear(path: Path) -> None:
    """Remove what a case has made."""
    for made in path.parent.glob(path.name + '*'):
        if made.is_dir():
            made.rmdir()
        else:
            made.unlink()


# --- guests -----------------------------------------------------------------

def refused(one: Watched, snapshot: str, code: str, reason: str,
            written: str = '') -> None:
    """See that neither a create nor a delete is taken.

    :param written: a layer that somebody else writes to meanwhile.
    """
    acts: list[tuple[Callable[..., object], str]] = [
        (one.operations().create, str(uuid.uuid4())),
        (one.operations().delete, snapshot)]
    for act, subject in acts:
        with pytest.raises(GuestFailed, match=reason) as caught:
            one.unchanged(act, subject, written=written)
        assert caught.value.fields['code'] == code
    state = one.files.journal.read_text()
    assert json.loads(state)['operation'] is None


def test_volume_of_nobody(ground: Ground) -> None:
    volume = ground.share.volume()
    overlay_file = ground.share.overlay(volume, 's1')
    nobody = Watched(ground, ground.stage.guest(volume), volume, 1, 0, '')
    with pytest.raises(errors.VolumeNotFound, match=volume.id):
        nobody.offer(overlay_file.name)
    with pytest.raises(errors.VolumeNotFound, match=volume.id):
        ground.client.merge(MergeRequest(
            Kind.DELETE, volume.id, 's1', nobody.names('', 's1'),
            nobody.names('', 's1'), volume.name))


def test_multi_attached_volume(ground: Ground) -> None:
    one = ground.one()
    snapshot, = one.layers(LARGE, SMALL)
    second = ground.stage.guest(one.volume)
    second.define()
    refused(one, snapshot, 'multi-attached', second.name)
    second.remove()
    done(one.delete(snapshot), 'active-commit')
    one.writer.write_more(FEW)


def test_managed_save_image(ground: Ground) -> None:
    one = ground.one()
    snapshot, = one.layers(LARGE, SMALL)
    request = one.request(one.operations().plan(snapshot))
    assert one.machine.domain.managedSave() == 0
    refused(one, snapshot, 'guest-state', 'managed-save')
    with pytest.raises(errors.GuestState, match='managed-save'):
        ground.client.merge(request)
    one.machine.domain.create()
    one.machine.wait_ready()
    one.writer.write_more(FEW)
    done(one.delete(snapshot), 'active-commit')


@pytest.mark.parametrize('method', ['commit', 'pull'])
def test_disk_with_a_foreign_job(ground: Ground, method: str) -> None:
    one = ground.one()
    s1, s2 = one.layers(SMALL, LARGE, SMALL)
    domain = one.machine.domain
    if method == 'commit':
        domain.blockCommit(
            'vda', backing(one, 0), backing(one, 1), 1,
            libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE
            | libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES)
    else:
        domain.blockPull('vda', 1,
                         libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)
    refused(one, s2, 'disk-busy', method,
            written=one.volume.name if method == 'commit' else '')
    assert domain.blockJobInfo('vda')
    domain.blockJobAbort('vda')
    waiting.until(lambda: not domain.blockJobInfo('vda'), 'the abort')
    if method == 'commit':
        # It has spoilt what the first snapshot held.
        done(one.delete(s1), 'commit')
    one.writer.write_more(FEW)


def backing(one: Watched, place: int) -> str:
    """libvirt's name of a layer below the active one; 0 is the base."""
    root = ET.fromstring(one.machine.domain.XMLDesc())  # noqa: S314
    stores = [store.get('index') for store in root.iter('backingStore')
              if store.find('source') is not None]
    return f'vda[{stores[-1 - place]}]'


def test_requests_that_do_not_fit_a_job_in_flight(ground: Ground) -> None:
    one = ground.one()
    s1, s2, s3 = one.layers(SMALL, LARGE, SMALL, SMALL)
    other = one.request(one.operations().plan(s2))
    job, rest = one.deleting(s1)
    with pytest.raises(errors.DiskBusy, match=job.id):
        ground.client.merge(other)
    with pytest.raises(errors.JobConflict, match=s1):
        ground.client.merge(replace(other, subject=s1))
    spare = ground.share.overlay(one.volume, 'spare')
    with pytest.raises(errors.DiskBusy, match=job.id):
        one.offer(spare.name)
    spare.unlink()
    ground.client.set_bandwidth(job.id, 0)
    done(rest.result(60), 'commit')
    assert list(one.expected) == [s2, s3]


def test_live_chain_that_is_not_as_planned(ground: Ground) -> None:
    one = ground.one()
    s1, s2 = one.layers(SMALL, SMALL, SMALL)
    planned = one.request(one.operations().plan(s1))
    names = planned.before
    for before, merged in (
            ((names[0], names[2]), (names[0], names[2])),
            ((*names, one.volume.layer('s9').name), names[:2]),
            ((names[1], names[0], names[2]), (names[1], names[0]))):
        wrong = replace(planned, before=before, merged=merged,
                        survivor=merged[0])
        with pytest.raises(errors.ChainMismatch, match='nothing was'):
            one.unchanged(ground.client.merge, wrong)
    with pytest.raises(errors.InvalidRequest, match='survivor'):
        one.unchanged(ground.client.merge,
                      replace(planned, survivor=names[1]))
    assert list(one.expected) == [s1, s2]


# --- disks, of guests that are only defined ---------------------------------

def network(disk: ET.Element) -> None:
    disk.set('type', 'network')
    source = disk.find('source')
    assert source is not None
    source.attrib.clear()
    source.attrib.update(protocol='nbd', name='x')
    ET.SubElement(source, 'host', name='127.0.0.1', port='10809')


def read_only(disk: ET.Element) -> None:
    ET.SubElement(disk, 'readonly')


def shareable(disk: ET.Element) -> None:
    ET.SubElement(disk, 'shareable')
    driver = disk.find('driver')
    assert driver is not None
    driver.set('type', 'raw')


DISKS = {
    'network': (network, errors.NotSupported, 'network'),
    'read-only': (read_only, errors.NotSupported, 'read-only'),
    'shareable': (shareable, errors.MultiAttached, 'shareable')}


@pytest.mark.parametrize('case', DISKS)
def test_disk_that_cannot_be_worked_on(ground: Ground, case: str) -> None:
    change, error, reason = DISKS[case]
    volume = ground.share.volume()
    machine = ground.stage.guest(volume)
    root = ET.fromstring(machine.xml())  # noqa: S314
    disk = root.find('devices/disk')
    assert disk is not None
    change(disk)
    ground.stage.libvirtd.connection.defineXML(
        ET.tostring(root, encoding='unicode'))
    for ask in offers(ground, volume):
        with pytest.raises(error, match=reason):
            ask()


def offers(ground: Ground, volume: Volume) -> list[Callable[[], object]]:
    """Every request about a volume."""
    fresh = ground.share.overlay(volume, 's1')
    one = Watched(ground, ground.stage.guests[0], volume, 1, 0, '')
    names = (volume.name, fresh.name)
    return [lambda: ground.client.get_chain(volume.id),
            lambda: one.offer(fresh.name),
            lambda: ground.client.merge(MergeRequest(
                Kind.DELETE, volume.id, 's1', names, names, names[0]))]
