# SPDX-License-Identifier: Apache-2.0
"""What a fault has left behind, after it was healed.

Every check is made, whatever another one has found, so that the worst is
always told.  A check that cannot be made is a finding, never silence.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
import functools

import libvirt

from tests.cloud.lab import records
from tests.cloud.lab.scene import BUSY
from tests.cloud.lab.scene import Scene
from tests.functional.lab import audit
from tests.functional.lab import content
from tests.functional.lab import images
from tests.functional.lab import waiting

CLEAN = 'clean'
#: Findings, the worst first.
LOST, DOWN, ORPHAN, STALE, STUCK = (
    'content lost', 'guest down', 'orphan file', 'stale record', 'stuck')
#: Seconds.
_COUNTING = 10
ORDER = (LOST, DOWN, ORPHAN, STALE, STUCK)


@dataclass
class Verdict:
    """What was found, with the reason of each finding.

    :ivar broken_off: why the fault could not be played to its end.
    """

    found: dict[str, str] = field(default_factory=dict)
    asked_again: tuple[str, ...] = ()
    broken_off: str = ''
    judged: bool = False

    @property
    def sound(self) -> bool:
        """Whether it was looked for findings, and there was none."""
        return self.judged and not self.found

    def check(self, finding: str, proof: Callable[[], object]) -> bool:
        """Make one check; tells whether it went well."""
        try:
            proof()
        except Exception as exc:
            self.found.setdefault(_meaning(exc, finding),
                                  f'{type(exc).__name__}: {exc}'[-1000:])
            return False
        return True

    def __str__(self) -> str:
        said = [one for one in ORDER if one in self.found] or [CLEAN]
        return ', '.join(said)


def _meaning(exc: Exception, finding: str) -> str:
    """What an error says that says more than that a check has failed."""
    if isinstance(exc, libvirt.libvirtError):
        return DOWN
    if isinstance(exc, content.ContentError):
        return LOST
    if isinstance(exc, images.ImageToolError):
        # What QEMU is still at work on cannot be read.
        if 'Is another process using the image' in str(exc):
            return STUCK
        # Somebody names a file that is not there.
        return finding if 'No such file' in str(exc) else LOST
    return finding


def judge(scene: Scene, seconds: float) -> Verdict:
    """Wait until all is settled, with a user's help, and look at it.

    :param seconds: after which what still waits is called stuck.
    """
    verdict = Verdict()
    verdict.check(STUCK, lambda: _ended(scene, seconds))
    verdict.asked_again = tuple(scene.asked_again)
    last = -1

    def stop() -> None:
        nonlocal last
        last = scene.stage.stop()
    verdict.check(DOWN, stop)
    _look(scene, verdict, last, seconds)
    verdict.judged = True
    if verdict.sound:
        scene.stage.writer.start(last)
    return verdict


def _look(scene: Scene, verdict: Verdict, last: int, seconds: float
          ) -> None:
    """Compare the share with all the records, nobody writing."""
    stage, files = scene.stage, scene.stage.files
    # What is still being done has files and records of its own.
    wrong = STUCK if STUCK in verdict.found else STALE
    if wrong == STALE:
        verdict.check(STALE, lambda: audit.fits(files, stage.snapshots))
        verdict.check(ORPHAN, lambda: _no_orphans(scene))
        verdict.check(STALE, lambda: _records(scene, seconds))
    if last >= 0:
        verdict.check(LOST, lambda: _same(scene.lost, ''))
        verdict.check(LOST, lambda: scene.prove_guest(last))
        verdict.check(STALE, lambda: _same_chain(scene))
    kept = {one: bounds for one, bounds in stage.snapshots.items()
            if scene.creates or one != scene.snapshot}
    for one, bounds in kept.items():
        verdict.check(wrong, functools.partial(
            audit.snapshot_holds, files, one, stage.writer.pattern, bounds))
    verdict.check(STUCK, lambda: _rows(scene))
    verdict.check(STUCK, lambda: _quota(scene))


def _ended(scene: Scene, seconds: float) -> None:
    status = scene.conclude(seconds)
    wanted = ('available', 'gone') if scene.creates else ('gone',)
    assert status in wanted, f'{scene.snapshot} is {status}'


def _no_orphans(scene: Scene) -> None:
    """No file that neither the guest nor the records know."""
    files = scene.stage.files
    known = {*files.info.values(), *scene.stage.server.chain(files.id)}
    # That the records lead nowhere is another finding.
    with suppress(audit.AuditError, images.ImageToolError):
        known |= {*audit.layers(files)}
    audit.no_orphans(files, known)


def _same_chain(scene: Scene) -> None:
    """The guest's chain is that on the share, unless that is being done."""
    if scene.status() not in BUSY:
        _same(scene.stage.server.chain(scene.stage.id),
              audit.layers(scene.stage.files))


def _rows(scene: Scene) -> None:
    """No row but those of snapshots that are there, each to be used."""
    stage = scene.stage
    found = stage.project.api.volume.get(
        f'/snapshots/detail?volume_id={stage.id}')['snapshots']
    _same({one['id']: one['status'] for one in found},
          dict.fromkeys(stage.snapshots, 'available'))
    volume = stage.project.api.volume.get(f'/volumes/{stage.id}')['volume']
    _same(volume['status'], 'in-use')


def _records(scene: Scene, seconds: float) -> None:
    """Nova and Cinder know the last layer."""
    stage = scene.stage
    active = stage.files.active.name, stage.files.active_format

    def known() -> bool:
        info = records.mapping(stage.settings, stage.id)['data']
        wire = stage.project.attachment(stage.id)['connection_info']
        return ((info['name'], info['format']) == active
                and (wire['name'], wire['format']) == active)
    waiting.until(known, f'everybody knowing {active}', seconds, 0.5)


def _quota(scene: Scene) -> None:
    """As many are counted as there are."""
    api = scene.stage.project.api.volume
    count = {kind: len(api.get(f'/{kind}')[kind])
             for kind in ('snapshots', 'volumes')}
    project = scene.stage.project.api.project_id()

    def counted() -> bool:
        usage = api.get(f'/os-quota-sets/{project}?usage=True')['quota_set']
        return {kind: usage[kind]['in_use'] for kind in count} == count
    # A row goes a moment before it is counted off.
    waiting.until(counted, f'quota of {count}', _COUNTING, 0.5)


def _same(found: object, wanted: object) -> None:
    assert found == wanted, f'{found}, not {wanted}'
