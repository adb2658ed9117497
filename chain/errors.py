# SPDX-License-Identifier: Apache-2.0
"""Errors of the chain room.

Each class is one situation: a message template over the fields its raiser
gives, so that no sentence is built where it is raised.  The message says
what was found, what was expected, and what to do.
"""

from __future__ import annotations

from typing import Any


class ChainError(Exception):
    """Base of all errors of this room; nothing was changed or lost."""

    message = 'chain error'

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.message.format(**fields))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from positional arguments otherwise.
        return _rebuild, (type(self), self.fields)


def _rebuild(kind: type[ChainError], fields: dict[str, Any]) -> ChainError:
    return kind(**fields)


class BadName(ChainError):
    """A name that could leave the folder or confuse a command."""

    message = '{what} {name!r} is not acceptable: {reason}'


class BadLayer(ChainError):
    """A file that must not be used as a layer."""

    message = '{file}: {reason}'


class MissingLayer(BadLayer):
    """A layer that something refers to is not there."""

    message = '{file}: there is no such file'


class BadBacking(BadLayer):
    """A header names a backing file that must not be followed."""

    message = '{file}: backing file {backing!r}: {reason}'


class FormatMismatch(BadLayer):
    """A layer has another format than the one pinned for it."""

    message = '{file}: {where} says {found}, but {pinned} is pinned'


class BadInfo(ChainError):
    """The .info file cannot be trusted."""

    message = ('{file}: {reason}; nothing was changed. '
               'Run "assisted-snapshot chain repair" to see what can be '
               'rebuilt from the headers')


class BadJournal(ChainError):
    """The journal cannot be trusted."""

    message = '{file}: {reason}; nothing was changed'


class Disagreement(ChainError):
    """Metadata and headers tell two stories; every file is kept."""

    message = '{volume}: {reason}; every file is kept'


class SnapshotNotFound(ChainError):
    """No such snapshot."""

    message = '{volume} has no snapshot {snapshot_id}'


class SnapshotExists(ChainError):
    """The snapshot id is taken."""

    message = '{volume} already has snapshot {snapshot_id}'


class NoDirection(ChainError):
    """No way to merge these layers now."""

    message = '{volume}: cannot merge {layers}: {reason}'


class OperationInFlight(ChainError):
    """Another operation on this volume has not ended."""

    message = ('{volume}: {kind} of {subject} is unfinished at step '
               '"{step}"; run "assisted-snapshot chain repair" or repeat '
               'that operation first')


class VolumeInUse(ChainError):
    """The operation needs a detached volume."""

    message = '{volume} is in use by {user}: {reason}'


class NotNewest(ChainError):
    """Only the newest snapshot can be reverted to."""

    message = ('{volume}: snapshot {snapshot_id} is not the newest '
               '({newest} is); delete the newer ones first')


class HasSnapshots(ChainError):
    """Flattening would drop snapshots that nobody gave up."""

    message = ('{volume} has snapshots ({snapshots}); flattening deletes '
               'them, which must be asked for')


class BadSize(ChainError):
    """A size that the operation cannot give."""

    message = '{volume}: size {size} is not possible: {reason}'


class BadTarget(ChainError):
    """A file that cannot be written as asked."""

    message = '{file}: {reason}'


class NoSpace(ChainError):
    """The share cannot take what the operation may write."""

    message = ('{volume}: {kind} may need {needed} bytes, the share has '
               '{free} free')


class ImageToolFailed(ChainError):
    """qemu-img reported an error."""

    message = 'qemu-img {command} of {file} failed ({status}): {stderr}'


class NotProven(ChainError):
    """The work is done as far as one can see, but proof is missing."""

    message = ('{volume}: {reason}; no file is removed, the operation can '
               'be repeated')


class NotEncrypted(ChainError):
    """A layer of an encrypted volume that others must not lie on."""

    message = ('{volume} is encrypted, but {file} is no encrypted qcow2 '
               'layer; a LUKS container that upstream Cinder has made is '
               'converted as soon as the volume is detached')


class NotTogether(ChainError):
    """Volumes of which one snapshot cannot be taken at one moment."""

    message = ('{volume} cannot have a snapshot at one moment with the '
               'others: {reason}')


class GuestFailed(ChainError):
    """The party that works on the running guest reported failure."""

    message = '{volume}: {reason}'


class GuestRefused(GuestFailed):
    """The party that works on the guest never began; all is as before."""
