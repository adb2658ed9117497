# SPDX-License-Identifier: Apache-2.0
"""What may be done to a server while one of its volumes is being merged.

The merge is held until the test lets it go.  Whatever Nova is asked for
meanwhile is refused with the job as the reason, waits, or goes on and leaves
the merge to be ended otherwise; afterwards snapshots and volume are whole.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from assisted_snapshots.rpcapi.messages import Job
from assisted_snapshots.rpcapi.messages import State
from tests.cloud.lab import logs
from tests.cloud.lab.api import BadRequest
from tests.cloud.lab.api import NotFound
from tests.cloud.lab.held import ENOUGH
from tests.cloud.lab.held import HeldJobs
from tests.cloud.lab.project import Project
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings
from tests.cloud.lab.stage import BLOCKS
from tests.cloud.lab.stage import DELAY
from tests.cloud.lab.stage import Stage
from tests.functional.lab import audit
from tests.functional.lab import share
from tests.functional.lab import waiting
from tests.functional.lab.content import Bounds

pytestmark = [pytest.mark.timeout(1200), pytest.mark.cloud('hooks')]

#: What Nova logs of what was refused.
REFUSED = 'is under way on volume'
REASON = '(job '


def migrate_live(stage: Stage) -> None:
    """Ask for it; the server stays where it is."""
    stage.project.act(stage.server.id, 'ACTIVE', **{'os-migrateLive': {
        'host': HOSTS[1], 'block_migration': 'auto'}})


def migrate_cold(stage: Stage) -> None:
    """Ask for it, as for a resize; the server goes on running."""
    stage.project.act(stage.server.id, 'ACTIVE', migrate=None)


def suspend(stage: Stage) -> None:
    """Ask for it; the server goes on running."""
    stage.project.act(stage.server.id, 'ACTIVE', suspend=None)


def rebuild(stage: Stage) -> None:
    """Ask for it; the server goes on running."""
    stage.project.act(stage.server.id, 'ACTIVE', rebuild={
        'imageRef': stage.project.image()})


def detach(stage: Stage) -> None:
    """Ask for it; the volume stays."""
    stage.project.api.compute.delete(
        f'/servers/{stage.server.id}/os-volume_attachments/{stage.id}')
    stage.project.volume_becomes(stage.id, 'in-use')


def swap(stage: Stage) -> None:
    """Ask for it as Cinder does when it migrates; the volume stays."""
    other = stage.project.volume()
    _migrating(stage, 'migrating')
    stage.project.api.compute.put(
        f'/servers/{stage.server.id}/os-volume_attachments/{stage.id}',
        {'volumeAttachment': {'volumeId': other}})
    stage.project.volume_becomes(stage.id, 'in-use')
    stage.project.volume_becomes(other, 'available')
    _migrating(stage, 'none')
    stage.project.delete_volume(other)


def _migrating(stage: Stage, status: str) -> None:
    stage.project.api.volume.post(
        f'/volumes/{stage.id}/action',
        {'os-reset_status': {'migration_status': status}})


def refused(stage: Stage, job: Job, ask: Callable[[Stage], None]) -> None:
    """Ask for something that the job is in the way of."""
    nova = f'nova-{HOSTS[0]}'
    before = {nova: logs.sizes(stage.settings)[nova]}
    ask(stage)
    # Nova takes everything back before it says why.
    waiting.until(lambda: logs.tell(stage.settings, before, REASON + job.id),
                  f'the reason of {ask.__name__}', 60)


# The last two are of a migration that Cinder knows nothing of.
@pytest.mark.logs(REFUSED, 'Failed to swap volume', 'mid-migration')
def test_refused(stage: Stage, held: HeldJobs) -> None:
    """The guest writes on undisturbed; the log has the reason.

    Another snapshot waits for its turn.
    """
    snapshot = stage.take()
    job = held.delete(stage, snapshot)
    for ask in (migrate_live, migrate_cold, suspend, rebuild, detach, swap):
        refused(stage, job, ask)
    held.release()
    stage.gone(snapshot)
    stage.take()


def reboot_soft(stage: Stage) -> None:
    """The guest goes down; Nova starts it from the same definition."""
    server, api = stage.server, stage.project.api
    before = server.domain.ID()
    api.compute.post(f'/servers/{server.id}/action',
                     {'reboot': {'type': 'SOFT'}})
    waiting.until(lambda: api.compute.get(f'/servers/{server.id}')['server'][
        'OS-EXT-STS:task_state'] == 'reboot_started', 'the reboot', 60, 0.1)
    # There is nobody in the guest who would heed the button.
    server.run('(sleep 1; busybox poweroff -f) > /dev/null 2>&1 &')
    stage.project.server_becomes(server.id, 'ACTIVE')
    assert server.domain.ID() != before
    server.wait_ready()


def reboot_hard(stage: Stage) -> None:
    """Nova makes the domain anew."""
    stage.server.reboot()


def pause(stage: Stage) -> None:
    """The guest stands still, QEMU does not."""
    stage.project.act(stage.server.id, 'PAUSED', pause=None)
    stage.project.act(stage.server.id, 'ACTIVE', unpause=None)


@pytest.mark.parametrize('act', [reboot_soft, reboot_hard, pause])
def test_goes_on(stage: Stage, held: HeldJobs,
                 act: Callable[[Stage], None]) -> None:
    """The merge is begun again in the new QEMU."""
    kept, going = stage.take(), stage.take()
    job = held.delete(stage, going)
    last = stage.stop()
    act(stage)
    stage.go_on(last)
    stage.writer.write_more(ENOUGH)
    assert held.agents[HOSTS[0]].get_job(job.id).state is State.RUNNING
    held.release()
    stage.gone(going)
    stage.delete(kept)


def stop(stage: Stage) -> None:
    """Shut off; the merge is ended by qemu-img."""
    stage.server.stop()


def start(stage: Stage) -> None:
    """Start again."""
    stage.server.start()


def shelve(stage: Stage) -> None:
    """Shut off, and gone from the host."""
    stage.project.act(stage.server.id, 'SHELVED_OFFLOADED', shelve=None)


def unshelve(stage: Stage) -> None:
    """Back on the host where it was."""
    stage.project.act(stage.server.id, 'ACTIVE', unshelve={
        'host': HOSTS[0]})
    stage.server.wait_ready()


def rescue(stage: Stage) -> None:
    """Another system runs, without the volumes."""
    stage.project.act(stage.server.id, 'RESCUE', rescue={})


def unrescue(stage: Stage) -> None:
    """Its own system runs again."""
    stage.project.act(stage.server.id, 'ACTIVE', unrescue=None)
    stage.server.wait_ready()


def deleted_at_last(stage: Stage, snapshot: str) -> None:
    """Ask once more at most; Cinder's driver may have begun by itself."""
    project, requests = stage.project, 0

    def gone() -> bool:
        nonlocal requests
        try:
            found = project.api.volume.get(f'/snapshots/{snapshot}')
            if found['snapshot']['status'] == 'available':
                requests += 1
                project.request_deletion(snapshot)
        except NotFound:
            return True
        except BadRequest:
            requests -= 1  # the driver was faster
        return False
    waiting.until(gone, f'end of {snapshot}', 240, 1)
    assert requests <= 1
    del stage.snapshots[snapshot]


@pytest.mark.logs('snapshot busy', 'must be available or error')
@pytest.mark.parametrize(('go', 'come'), [
    (stop, start), (shelve, unshelve), (rescue, unrescue)])
def test_guest_is_off(stage: Stage, held: HeldJobs,
                      go: Callable[[Stage], None],
                      come: Callable[[Stage], None]) -> None:
    """The merge is ended without the guest, or when it is back."""
    kept, going = stage.take(), stage.take()
    held.delete(stage, going)
    last = stage.stop()
    go(stage)
    if go is stop:
        deleted_at_last(stage, going)
        stage.at_rest()
    held.release()
    come(stage)
    stage.go_on(last)
    if go is not stop:
        deleted_at_last(stage, going)
        stage.settled()
    stage.delete(kept)


@pytest.mark.logs('snapshot busy', 'must be available or error')
def test_server_is_deleted(settings: Settings, project: Project,
                           held: HeldJobs) -> None:
    """The volume is free; what is left of the merge is done on the files."""
    volume = project.volume()
    server = Server.boot(project, settings, HOSTS[0], volume)
    writer = server.writer(volume, BLOCKS, DELAY)
    writer.start()
    stage = Stage(settings, project, server,
                  share.Volume(settings.share, volume, 'raw', share.GIB),
                  writer)
    kept, going = stage.take(), stage.take()
    held.delete(stage, going)
    last = stage.stop()
    project.delete_server(server.id)
    project.volume_becomes(volume, 'available')
    deleted_at_last(stage, going)
    audit.settled(stage.files, [kept])
    audit.snapshot_holds(stage.files, kept, writer.pattern,
                         stage.snapshots[kept])
    audit.active_holds(stage.files, writer.pattern, Bounds(last, last))
    project.delete_snapshot(kept)
    audit.active_holds(stage.files, writer.pattern, Bounds(last, last))
    project.delete_volume(volume)
