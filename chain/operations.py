# SPDX-License-Identifier: Apache-2.0
"""Everything that can be done to one volume, safe against dying anywhere.

Every operation goes intent -> data -> re-point the child -> .info ->
unlink, and the journal tells how far it came.  The table says what
:meth:`Operations.recover`, or repeating the operation, does after the
process was killed:

=========  ===========================  ===================================
operation  killed                       then
=========  ===========================  ===================================
any        before the intent is         nothing has happened
           written
create     before the overlay is        undone: the overlay is removed
           finished
create     while a guest was asked to   its host is asked again, which
           move                         tells the outcome; finished or
                                        undone accordingly.  If the guest
                                        is gone: finished if somebody wrote
                                        to the overlay, else undone
create     later                        finished: .info
delete,    in the copy                  started over from the layers that
flatten                                 will go, which still hold all
delete,    while a guest was working    its host is asked again, with the
flatten                                 same layers.  If the guest is gone,
                                        the copy is started over on the
                                        files; where the guest may have
                                        moved down already and nobody
                                        knows, it stops: Disagreement
delete,    after the copy was proven    finished: child, .info, unlink
flatten
clone      before it has its name       undone: temporary files removed
clone      later                        it is there, and stays
revert     before the exchange          undone: nothing has changed
revert     later                        it has been reverted
extend     anywhere                     finished
orphan     anywhere                     it is there or not
=========  ===========================  ===================================

What a snapshot of several volumes leaves is told in
:mod:`assisted_snapshots.chain.together`, what the conversion of a LUKS
container leaves in :mod:`assisted_snapshots.chain.bare`.

A guest's side that refuses has the intent withdrawn at once; killed in that,
it is asked again, as above.

A layer is unlinked only after who did the work has said that it is done and
durable, and the headers on the share have been seen not to refer to it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from assisted_snapshots.chain import bare
from assisted_snapshots.chain import copies
from assisted_snapshots.chain import errors
from assisted_snapshots.chain import growth
from assisted_snapshots.chain import merging
from assisted_snapshots.chain import orphans
from assisted_snapshots.chain import recover
from assisted_snapshots.chain import snapshots
from assisted_snapshots.chain import together
from assisted_snapshots.chain.check import check
from assisted_snapshots.chain.check import Finding
from assisted_snapshots.chain.guest import GuestSide
from assisted_snapshots.chain.merge import ignore
from assisted_snapshots.chain.names import VolumeFiles
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.qemu_img import Progress
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.value import Format
from assisted_snapshots.chain.value import VolumeState
from assisted_snapshots.chain.volume import Volume


class Operations:
    """What can be done to one volume.

    Not for use by two threads at once.  Errors are of
    :mod:`assisted_snapshots.chain.errors`; what the guest's side raises
    passes through.

    :param files: where the volume is.
    :param formats: layer -> format, of what no journal or header pins: the
        base of a volume that this project has not seen.
    :param guest: the side of the guest that may have the volume; None says
        that no guest has it.
    :param lock: held around all that writes; by default the lock file.
    :param secret: of LUKS layers.
    :param observer: called with a sentence before every step.
    :param progress: called with the percentage of a copy made here.
    :param keep_active: a guest that is shut off knows the active file by
        its name, so it must stay; and no guest may start meanwhile.  A
        guest's side asks for the same with its own ``keeps_active``.
    """

    def __init__(self, files: VolumeFiles, *,
                 formats: Mapping[str, Format] | None = None,
                 guest: GuestSide | None = None,
                 lock: AbstractContextManager[Any] | None = None,
                 secret: Secret | None = None,
                 observer: Callable[[str], None] = ignore,
                 progress: Progress | None = None,
                 keep_active: bool = False) -> None:
        self._volume = Volume(files, formats=formats, guest=guest, lock=lock,
                              secret=secret, observer=observer,
                              progress=progress, keep_active=keep_active)

    def state(self) -> VolumeState:
        """Return the volume as it is; waits for nobody.

        :raises OperationInFlight: it is in the middle of an operation.
        """
        return self._volume.state()

    def plan(self, snapshot_id: str) -> MergePlan:
        """Return what deleting a snapshot would do."""
        volume = self._volume
        state = volume.state()
        return merging.delete_plan(volume, snapshot_id, state,
                                   volume.ask() is not None)

    def create(self, snapshot_id: str, quiesce: str = 'try') -> str:
        """Take a snapshot.

        :param quiesce: ``off``, ``try`` or ``require``, for a guest.
        :returns: what its content is worth: the guest side's word, or
            ``detached``.
        """
        volume = self._volume
        with volume.locked():
            doing = volume.resumable('create', snapshot_id)
            if doing:
                told = snapshots.resume_create(volume, doing)
                if told is not None:
                    return told
            doing = snapshots.begin_create(volume, snapshot_id, quiesce,
                                           volume.state())
            return snapshots.carry_on_create(volume, doing)

    def delete(self, snapshot_id: str) -> None:
        """Delete a snapshot, whatever is above or below it."""
        self._merge('delete', snapshot_id)

    def flatten(self, delete_snapshots: bool = False) -> None:
        """Make one layer of all.

        :param delete_snapshots: it is known that none will be left.
        :raises HasSnapshots: there are, and it is not.
        """
        self._merge('flatten', self._volume.files.id, delete_snapshots)

    def clone(self, snapshot_id: str | None, target: Path,
              form: Format = Format.QCOW2, size: int | None = None, *,
              target_secret: Secret | None = None) -> None:
        """Make a new volume of a snapshot, without layers below it.

        Works beside a running guest: a snapshot's layers do not change.

        :param snapshot_id: None for the volume's current content, which
            needs a detached volume.
        :param target: file to be made; in the volume's own folder its
            format gets pinned.
        :param size: in bytes, if it is to be larger.
        :param target_secret: passphrase of the clone; by default that of
            the volume.  Makes an encrypted clone of any volume.
        :raises VolumeInUse: a guest has what is to be cloned.
        """
        volume = self._volume
        with volume.locked():
            doing = volume.resumable('clone',
                                     snapshot_id or volume.files.name)
            if doing:
                copies.resume_clone(volume, doing)
            copies.carry_on_clone(volume, copies.begin_clone(
                volume, snapshot_id, target, form, size, volume.state(),
                target_secret), target_secret)

    def revert(self, snapshot_id: str) -> None:
        """Drop what was written since the newest snapshot."""
        volume = self._volume
        with volume.locked():
            doing = volume.resumable('revert', snapshot_id)
            if doing:
                snapshots.resume_revert(volume, doing)
            snapshots.carry_on_revert(volume, snapshots.begin_revert(
                volume, snapshot_id, volume.state()))

    def extend(self, size: int) -> None:
        """Make the volume larger; snapshots keep their size.

        In a running guest its side does it, and the guest sees it.
        """
        volume = self._volume
        with volume.locked():
            doing = volume.resumable('extend', volume.files.name)
            if doing:
                growth.carry_on_extend(volume, doing)
            doing = growth.begin_extend(volume, size, volume.state())
            if doing:
                growth.carry_on_extend(volume, doing)

    def adopt_luks(self, size: int) -> None:
        """Make a bare LUKS container a layer, of an encrypted volume.

        Afterwards other formats are pinned: this object is of no more use.

        :param size: in bytes, that the volume shall have.
        :raises VolumeInUse: a guest has it.
        """
        volume = self._volume
        with volume.locked():
            doing = volume.resumable(bare.KIND, volume.files.name)
            if doing:
                bare.resume_adopt(volume)
            if bare.is_bare(volume.files):
                bare.carry_on_adopt(volume, bare.begin_adopt(
                    volume, size, volume.state()))

    def remove_orphan(self, snapshot_id: str) -> bool:
        """Remove a left-over overlay of a snapshot that there is not.

        :returns: False where there is none.
        :raises SnapshotExists: it is no left-over.
        :raises Disagreement: it may hold what is nowhere else.
        :raises VolumeInUse: somebody has it open.
        """
        volume = self._volume
        with volume.locked():
            doing = volume.journal().operation
            if doing:
                raise volume.in_flight(doing)
            return orphans.remove_orphan(volume, snapshot_id)

    def check(self) -> list[Finding]:
        """Return what is wrong with the volume; changes nothing."""
        return check(self._volume)

    def recover(self, dry_run: bool = False) -> list[str]:
        """Finish or undo what a crash has cut short, and mend .info.

        :returns: a sentence for each thing that was (would be) done.
        :raises Disagreement: the files do not say what is right; every
            one is kept.
        """
        if dry_run:
            return recover.recover(self._volume, dry_run=True)
        with self._volume.locked():
            return recover.recover(self._volume)

    def _merge(self, kind: str, subject: str,
               delete_snapshots: bool = True) -> None:
        volume = self._volume
        with volume.locked():
            doing = volume.resumable(kind, subject)
            if doing:
                merging.carry_on(volume, doing, resumed=True)
                return
            state = volume.state()
            if state.snapshots and not delete_snapshots:
                raise errors.HasSnapshots(
                    volume=volume.files.name,
                    snapshots=', '.join(state.ordered_snapshots()))
            doing = merging.begin(volume, kind, subject, state)
            if doing:
                merging.carry_on(volume, doing)


def create_together(parts: Sequence[tuple[Operations, str]],
                    create_all: together.CreateAll,
                    quiesce: str = 'try') -> str:
    """Take a snapshot of several volumes of one guest, at one moment.

    See :mod:`assisted_snapshots.chain.together` for what a crash leaves.

    :param parts: each volume once, with the id of its snapshot.
    :param create_all: takes a tuple of (volume id, snapshot id, overlay)
        and ``quiesce``; moves the guest to all overlays or to none, and
        returns the consistency.
    :returns: the consistency.
    :raises NotTogether: a volume is named twice, or no guest has it.
    """
    return together.create([(one._volume, snapshot_id)
                            for one, snapshot_id in parts],
                           create_all, quiesce)
