# SPDX-License-Identifier: Apache-2.0
"""What Cinder is told when something fails.

One table says which of Cinder's exceptions an error of the chain or of an
agent becomes, because Cinder decides by the class what state the user sees.
A delete that can simply be repeated is always exactly ``SnapshotIsBusy``:
the manager then makes the snapshot available again and leaves the user a
message.  Nothing here may hide a state that nobody understands behind an
error that looks harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

from cinder import exception

from assisted_snapshots.chain import errors as chain
from assisted_snapshots.rpcapi import errors as rpc

#: ``code`` of the agent's error after which nobody knows where a guest is.
LOST = rpc.GuestLost.code


class Refused(exception.InvalidVolume):
    """Nothing was begun, because it could not have been safe."""

    message = '%(reason)s'


class WrongState(Refused):
    """Cinder's own state of the volume forbids the operation."""

    message = ('volume %(volume)s is %(status)s; %(action)s needs it to be '
               'one of: %(wanted)s')


class MultiAttached(Refused):
    """More than one guest has the volume, and only one can be moved."""

    message = ('volume %(volume)s has %(count)s attachments; snapshots of a '
               'volume that is attached more than once are not possible')


class AttachmentChanging(Refused):
    """The volume is on its way to a guest, or off one."""

    message = ('an attachment of volume %(volume)s is %(status)s; try again '
               'when that has ended')


class WouldBeFormatted(Refused):
    """An encrypted volume is asked for by a Nova that would destroy it."""

    message = ('volume %(volume)s is encrypted, and the hooks of this '
               'project do not answer in Nova on host %(host)s; without them '
               'Nova writes a LUKS header over a qcow2 file that it '
               'attaches, so the volume is not handed out')


class NotReady(exception.InvalidSnapshot):
    """A snapshot that cannot be copied now."""

    message = 'snapshot %(snapshot)s is %(status)s'


class SnapshotsDisabled(exception.VolumeDriverException):
    """The operator has not switched snapshots on."""

    message = ('%(option)s is off in the section of this backend, so it '
               'takes no snapshots')


class SnapshotsLeft(exception.VolumeIsBusy):
    """A volume's snapshots are still in Cinder's database."""

    message = ('volume %(volume)s still has %(count)s snapshots; nothing '
               'was removed')


class StillOpen(exception.VolumeIsBusy):
    """A volume to be deleted is in use, whatever Cinder knows."""

    message = ('%(file)s is open in a QEMU process; no file of volume '
               '%(volume)s was removed')


class NoRoomToExtend(exception.ExtendVolumeError):
    """The share has promised too much already."""

    message = ('volume %(volume)s needs %(needed)s more bytes; %(share)s has '
               '%(free)s bytes free and may promise %(promise)s more')


class TooLarge(exception.InvalidVolume):
    """A header says more than Cinder has ever granted."""

    message = ('volume %(volume)s is %(size)s bytes, its layers say '
               '%(found)s; it is not handed out, because a guest may have '
               'changed a header')


#: What an operator has to add to a reference.
SAY_FORMAT = ('its header could be that of a qcow2 image or one that a guest '
              'has written into a raw disk: say which by "format" in the '
              'reference')


class BadReference(exception.ManageExistingInvalidReference):
    """A file that cannot become a volume."""


class NeedsFormat(BadReference):
    """A file whose format only the operator can know."""

    message = '%(existing_ref)s: ' + SAY_FORMAT


class NotEncrypted(exception.InvalidVolume):
    """Encryption cannot be dropped by copying."""

    message = ('volume %(volume)s would hold the content of %(source)s, '
               'which is encrypted, in the clear')


# What can be seen from the class alone, first match; everything else is
# VolumeBackendAPIException.
_TABLE: tuple[tuple[type[Exception], Callable[..., Exception]], ...] = (
    (chain.SnapshotNotFound, exception.InvalidSnapshot),
    (chain.NotNewest, exception.InvalidSnapshot),
    (chain.SnapshotExists, exception.InvalidSnapshot),
    (chain.VolumeInUse, exception.InvalidVolume),
    (chain.BadSize, exception.InvalidVolume),
    (chain.HasSnapshots, exception.InvalidVolume),
)

# After these the files or the records tell two stories: no retry helps.
_UNCLEAR = (chain.Disagreement, chain.BadLayer, chain.BadInfo,
            chain.BadJournal, chain.BadName)

# A share that is full or away is none of them: what it stopped goes on when
# it is repeated.
OURS = (chain.ChainError, rpc.AgentError, OSError)


def translate(error: Exception) -> Exception:
    """Return the exception of Cinder that an error becomes."""
    for kind, told in _TABLE:
        if isinstance(error, kind):
            return told(reason=str(error))
    return _backend(error)


def translate_delete(error: Exception) -> Exception:
    """Return what the manager is told when a snapshot stays."""
    if isinstance(error, _UNCLEAR) or code(error) == LOST:
        return _backend(error)
    busy: Exception = exception.SnapshotIsBusy(message=str(error))
    return busy


def _backend(error: Exception) -> Exception:
    told: Exception = exception.VolumeBackendAPIException(data=str(error))
    return told


def code(error: Exception) -> str | None:
    """Return the agent's code of what went wrong, if there is one."""
    if isinstance(error, chain.ChainError):
        found = error.fields.get('code')
        return None if found is None else str(found)
    return error.code if isinstance(error, rpc.AgentError) else None


@contextmanager
def translated() -> Iterator[None]:
    """Turn what goes wrong inside into an exception of Cinder."""
    try:
        yield
    except OURS as exc:
        raise translate(exc) from exc


@contextmanager
def translated_delete() -> Iterator[None]:
    """The same for the deletion of a snapshot."""
    try:
        yield
    except (*OURS, Refused) as exc:
        raise translate_delete(exc) from exc


@contextmanager
def translated_extend() -> Iterator[None]:
    """The same for the growth of a volume."""
    try:
        yield
    except OURS as exc:
        raise exception.ExtendVolumeError(reason=str(exc)) from exc
