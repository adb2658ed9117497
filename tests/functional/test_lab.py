# SPDX-License-Identifier: Apache-2.0
"""The laboratory itself: it must work, and its checkers must be able to
say no.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import shutil
import uuid

import libvirt
import pytest

from tests.functional.lab import audit
from tests.functional.lab import content
from tests.functional.lab import images
from tests.functional.lab import waiting
from tests.functional.lab.agent import Agent
from tests.functional.lab.agent import AgentEnded
from tests.functional.lab.content import Bounds
from tests.functional.lab.content import ContentError
from tests.functional.lab.content import Pattern
from tests.functional.lab.guest import Guest
from tests.functional.lab.guest import Moment
from tests.functional.lab.guest import Writer
from tests.functional.lab.libvirtd import Libvirtd
from tests.functional.lab.rabbit import Rabbit
from tests.functional.lab.share import MIB
from tests.functional.lab.share import Share
from tests.functional.lab.share import SmallShare
from tests.functional.lab.share import Volume
from tests.functional.lab.stage import Stage

MakeGuest = Callable[..., Guest]
SNAPSHOT = (libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT)


def take_snapshot(guest: Guest, volume: Volume, share: Share,
                  flags: int = 0) -> str:
    """A snapshot by bare libvirt; returns its id and records nothing."""
    snapshot = str(uuid.uuid4())
    overlay = share.overlay(volume, snapshot)
    disks = ''.join(
        f"<disk name='{guest.device(v)}' snapshot='no'/>"
        for v in guest.volumes if v is not volume)
    secret = ('' if volume.secret is None else
              "<encryption format='luks'><secret type='passphrase' "
              f"uuid='{volume.secret_uuid}'/></encryption>")
    guest.domain.snapshotCreateXML(
        f"<domainsnapshot><disks>{disks}"
        f"<disk name='{guest.device(volume)}' snapshot='external' "
        f"type='file'><driver type='qcow2'/><source file='{overlay}'>"
        f"{secret}</source></disk></disks></domainsnapshot>",
        SNAPSHOT | flags)
    return snapshot


# --- what the checkers must refuse -----------------------------------------

PATTERN = Pattern.of('a volume', 64)


def image_of(folder: Path, records: dict[int, bytes]) -> Path:
    """A raw image with these blocks."""
    raw = folder / 'image'
    with open(raw, 'wb') as file:
        file.truncate(1 * MIB)
        for block, data in records.items():
            file.seek(block * content.RECORD)
            file.write(data)
    return raw


def prefix(last: int, pattern: Pattern = PATTERN) -> dict[int, bytes]:
    """Blocks of an image that is true up to a record."""
    return {block: pattern.record(pattern.expected(block, last))
            for block in range(pattern.blocks)
            if pattern.expected(block, last)}


@pytest.mark.parametrize('last', [0, 1, 63, 64, 65, 1000])
def test_true_image_is_accepted(tmp_path: Path, last: int) -> None:
    raw = image_of(tmp_path, prefix(last))
    assert content.last_record(raw, PATTERN) == last


@pytest.mark.parametrize('last', [40, 1000])
@pytest.mark.parametrize('what', [
    'lost', 'stale', 'leaked', 'misplaced', 'one bit', 'torn', 'foreign',
    'beyond', 'garbage'])
def test_false_image_is_refused(tmp_path: Path, what: str, last: int
                                ) -> None:
    blocks = prefix(last)
    place = 17
    number = PATTERN.expected(place, last)
    good = PATTERN.record(number)
    if what == 'lost':
        del blocks[place]
    elif what == 'stale':
        blocks[last % 64] = PATTERN.record(last + 64)
        blocks[place] = PATTERN.record(max(number - 64, place + 128))
    elif what == 'leaked':
        blocks[(last + 3) % 64] = PATTERN.record(last + 3)
    elif what == 'misplaced':
        blocks[place] = PATTERN.record(number + 1)
    elif what == 'one bit':
        blocks[place] = good[:3000] + bytes([good[3000] ^ 4]) + good[3001:]
    elif what == 'torn':
        blocks[place] = good[:2048] + PATTERN.record(number + 64)[2048:]
    elif what == 'foreign':
        blocks[place] = Pattern.of('another', 64).record(number)
    elif what == 'beyond':
        blocks[200] = PATTERN.record(200)
    else:
        blocks[place] = b'\xff' * content.RECORD
    with pytest.raises(ContentError):
        content.last_record(image_of(tmp_path, blocks), PATTERN)


def test_record_outside_the_bounds_is_refused(tmp_path: Path) -> None:
    raw = image_of(tmp_path, prefix(100))
    assert content.prove(raw, 'raw', PATTERN, Bounds(99, 100)) == 100
    for bounds in (Bounds(101, 200), Bounds(0, 99)):
        with pytest.raises(ContentError, match='outside'):
            content.prove(raw, 'raw', PATTERN, bounds)


def test_different_images_are_refused(tmp_path: Path) -> None:
    left = image_of(tmp_path, prefix(100))
    right = tmp_path / 'right'
    images.from_raw(left, right, 'qcow2')
    content.same(left, 'raw', right, 'qcow2')
    images.io(right, 'qcow2', ['write -P 1 900k 4k'])
    with pytest.raises(ContentError, match='differs'):
        content.same(left, 'raw', right, 'qcow2')


def test_audit_sees_what_is_wrong(tmp_path: Path) -> None:
    share = Share(tmp_path)
    volume = share.volume()
    audit.settled(volume)
    overlay = share.overlay(volume, 's1')
    with pytest.raises(audit.AuditError, match='nothing refers'):
        audit.settled(volume)
    info = volume.folder / f'{volume.name}.info'
    info.write_text(f'{{"active": "{overlay.name}", '
                    f'"s1": "{overlay.name}"}}')
    audit.settled(volume, ['s1'])
    assert audit.below(volume, 's1') == (volume.path, 'qcow2')
    with pytest.raises(audit.AuditError, match='knows snapshots'):
        audit.settled(volume)
    images.run('rebase', '-u', '-f', 'qcow2', '-b', volume.path, '-F',
               'qcow2', overlay)
    with pytest.raises(audit.AuditError, match='backing name'):
        audit.settled(volume, ['s1'])


def test_check_sees_a_damaged_image(tmp_path: Path) -> None:
    volume = Share(tmp_path).volume()
    images.io(volume.path, 'qcow2', ['write -P 1 0 1M'])
    images.check(volume.path)
    with open(volume.path, 'r+b') as file:
        file.seek(2 * 65536)
        file.write(b'\x01' * 64)
    with pytest.raises(images.ImageToolError):
        images.check(volume.path)


# --- guests ----------------------------------------------------------------

def written(writer: Writer, records: int = 200) -> int:
    """Let a writer write and stop; its last record."""
    writer.start()
    writer.write_more(records)
    progress = writer.stop()
    assert progress.acknowledged == progress.submitted
    assert not progress.running
    return progress.acknowledged


@pytest.mark.parametrize('persistent', [True, False])
def test_guest_writes_on_every_kind_of_disk(
        share: Share, guest: MakeGuest, persistent: bool) -> None:
    volumes = [share.volume('raw'), share.volume('qcow2'),
               share.volume('qcow2', encrypted=True)]
    machine = guest(*volumes, persistent=persistent)
    machine.start()
    writers = [machine.writer(v, blocks=128) for v in volumes]
    last = [written(writer) for writer in writers]
    machine.destroy()
    for volume, writer, record in zip(volumes, writers, last, strict=True):
        audit.settled(volume)
        bounds = Bounds(record, record)
        audit.active_holds(volume, writer.pattern, bounds)
        assert volume.active == volume.path


def test_checker_sees_what_happens_to_a_guests_disk(
        share: Share, guest: MakeGuest) -> None:
    """A lost, a leaked and a damaged record, each on a real image."""
    volume = share.volume()
    machine = guest(volume)
    machine.start()
    writer = machine.writer(volume, blocks=1024)
    last = written(writer)
    machine.destroy()
    exactly = Bounds(last, last)
    pattern = writer.pattern
    assert audit.active_holds(volume, pattern, exactly) == last
    next_record = share.folder / 'record'
    next_record.write_bytes(pattern.record(last + 1))
    offset = content.RECORD
    for command in (f'write -z {last * offset} 4k',
                    f'write -z {(last - 9) * offset} 4k',
                    f'write -P 9 {5 * offset} 512',
                    f'write -s {next_record} {(last + 1) * offset} 4k'):
        damaged = share.folder / 'damaged'
        images.create(damaged, 'qcow2', backing=volume.path)
        images.io(damaged, 'qcow2', [command])
        with pytest.raises(ContentError):
            content.prove(damaged, 'qcow2', pattern, exactly)


def test_snapshot_under_load_is_proved(share: Share, guest: MakeGuest
                                       ) -> None:
    volume = share.volume('qcow2', encrypted=True)
    machine = guest(volume)
    machine.start()
    writer = machine.writer(volume, blocks=512)
    writer.start()
    writer.write_more(100)
    with Moment(writer) as moment:
        snapshot = take_snapshot(machine, volume, share)
    assert machine.chain(volume) == (volume.name,
                                     volume.layer(snapshot).name)
    writer.write_more(100)
    content.prove(volume.path, 'qcow2', writer.pattern, moment.bounds,
                  secret=volume.secret)
    last = writer.stop().acknowledged
    machine.destroy()
    content.prove(volume.layer(snapshot), 'qcow2', writer.pattern,
                  Bounds(last, last), secret=volume.secret)


def test_killed_guest_loses_nothing_acknowledged(
        share: Share, guest: MakeGuest) -> None:
    volume = share.volume()
    machine = guest(volume)
    machine.start()
    writer = machine.writer(volume, blocks=512)
    writer.start()
    before = writer.write_more(300)
    machine.kill()
    held = audit.active_holds(volume, writer.pattern,
                              Bounds(before.acknowledged, 1 << 62))
    machine.start()
    writer.start(after=held)
    writer.write_more(50)
    last = writer.stop().acknowledged
    machine.destroy()
    audit.active_holds(volume, writer.pattern, Bounds(last, last))
    audit.settled(volume)


@pytest.mark.parametrize('frozen', [True, False])
def test_file_system_is_proved(share: Share, guest: MakeGuest, frozen: bool
                               ) -> None:
    volume = share.ext4_volume()
    machine = guest(share.volume(), volume)
    machine.start()
    machine.mount(volume)
    writer = machine.writer(volume, blocks=256, file='/data/records')
    writer.start()
    writer.write_more(50)
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE if frozen else 0
    with Moment(writer) as moment:
        take_snapshot(machine, volume, share, flags)
    writer.write_more(50)
    content.prove_ext4(volume.path, 'qcow2', '/records', writer.pattern,
                       moment.bounds, clean=frozen)
    with pytest.raises(ContentError):
        content.prove_ext4(volume.path, 'qcow2', '/records', writer.pattern,
                           moment.bounds, clean=not frozen)


def test_stall_meter_sees_a_stall(share: Share, guest: MakeGuest) -> None:
    volume = share.volume()
    machine = guest(volume)
    machine.start()
    writer = machine.writer(volume)
    writer.start()
    writer.write_more(50)
    machine.domain.setBlockIoTune(
        machine.device(volume), {'write_iops_sec': 1})
    writer.reset_gap()
    writer.write_more(2)
    assert writer.progress().longest_gap > 0.5
    machine.domain.setBlockIoTune(
        machine.device(volume), {'write_iops_sec': 0})
    writer.write_more(2)
    writer.reset_gap()
    writer.write_more(20)
    assert 0 < writer.progress().longest_gap < 0.5


def test_paused_guest_writes_nothing(share: Share, guest: MakeGuest) -> None:
    volume = share.volume()
    machine = guest(volume)
    machine.start()
    writer = machine.writer(volume, blocks=256)
    writer.start()
    writer.write_more(50)
    machine.suspend()
    held = audit.active_holds(volume, writer.pattern)
    assert audit.active_holds(volume, writer.pattern) == held
    machine.resume()
    writer.write_more(50)
    assert machine.active()


# --- servers ---------------------------------------------------------------

def test_guest_outlives_libvirtd(share: Share, guest: MakeGuest,
                                 libvirtd: Libvirtd) -> None:
    volume = share.volume('qcow2', encrypted=True)
    machine = guest(volume)
    machine.start()
    writer = machine.writer(volume, blocks=256)
    writer.start()
    pid = machine.pid
    libvirtd.kill()
    libvirtd.start()
    writer.write_more(50)
    assert machine.pid == pid
    take_snapshot(machine, volume, share)
    writer.write_more(50)


def test_full_share_stops_the_guest_and_nothing_is_lost(
        small_share: Callable[[int], SmallShare], guest: MakeGuest) -> None:
    share = small_share(16 * MIB)
    volume = share.volume(size=64 * MIB)
    machine = guest(volume)
    machine.start()
    writer = machine.writer(volume, blocks=8192)
    writer.start()
    before = writer.write_more(100)
    (share.folder / 'ballast').write_bytes(bytes(10 * MIB))
    wait_until_paused(machine)
    (share.folder / 'ballast').unlink()
    machine.resume()
    writer.write_more(100)
    last = writer.stop().acknowledged
    assert last >= before.acknowledged + 100
    machine.destroy()
    audit.active_holds(volume, writer.pattern, Bounds(last, last))


def wait_until_paused(machine: Guest) -> None:
    """Wait until libvirt has paused a guest on an I/O error."""
    paused = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
    waiting.until(lambda: machine.domain.state() == paused,
                  'guest paused for lack of space')


@pytest.mark.parametrize('end', [Rabbit.terminate, Rabbit.kill])
def test_rabbit_keeps_its_data_over_a_restart(
        rabbit: Rabbit, end: Callable[[Rabbit], None]) -> None:
    url = rabbit.url
    rabbit.control('add_vhost', 'kept')
    end(rabbit)
    rabbit.start()
    assert 'kept' in rabbit.control('list_vhosts')
    rabbit.control('delete_vhost', 'kept')
    assert rabbit.url == url


def test_agent_is_started_stopped_and_killed(
        make_agent: Callable[..., Agent]) -> None:
    agent = make_agent(poll_interval=0.2)
    agent.start()
    client = agent.client()
    assert client.ping().host == agent.host
    assert 20 * MIB < agent.memory() < 500 * MIB
    agent.kill()
    agent.start()
    # Ready means that it answers; it may still be looking for libvirtd.
    waiting.until(lambda: not client.ping().problem, 'agent at libvirtd')
    assert agent.terminate() == 0
    assert not agent.running


def test_agent_that_cannot_start_is_told(make_agent: Callable[..., Agent]
                                         ) -> None:
    agent = make_agent(poll_interval='never')
    with pytest.raises(AgentEnded, match='poll_interval'):
        agent.start()


def test_evidence_of_a_failure_is_kept(libvirtd: Libvirtd) -> None:
    stage = Stage(libvirtd, 'lab-evidence')
    volume = stage.share().volume()
    stage.guest(volume).start()
    stage.collect()
    place = stage.close(keep=True)
    assert place is not None
    kept = {str(p.relative_to(place)) for p in place.rglob('*')}
    assert {'guest-1.xml', 'guest-1.console.log', f'share/{volume.name}',
            'libvirt-log/libvirtd.log',
            'libvirt-log/qemu/guest-1.log'} <= kept
    shutil.rmtree(place)
