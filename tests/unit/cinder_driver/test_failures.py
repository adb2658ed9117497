# SPDX-License-Identifier: Apache-2.0
"""Which exception of Cinder an error becomes, by the state it leads to."""

from __future__ import annotations

import errno
import string
from typing import Any

from cinder import exception
import pytest

from assisted_snapshots.chain import errors as chain
from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.rpcapi import errors as rpc


def subclasses(kind: type[Any]) -> list[type[Any]]:
    return [kind, *(sub for child in kind.__subclasses__()
                    for sub in subclasses(child))]


def made(kind: type[Any]) -> Exception:
    """An error with something in every field of its message."""
    names = {name for _, name, _, _ in string.Formatter().parse(kind.message)
             if name}
    error: Exception = kind(**dict.fromkeys(names, 1))
    return error


ALL = [made(kind) for kind in (*subclasses(chain.ChainError),
                               *subclasses(rpc.AgentError))]

# After these a retry cannot help: the snapshot must not look usable.
UNCLEAR = (chain.Disagreement, chain.BadLayer, chain.BadInfo,
           chain.BadJournal, chain.BadName, rpc.GuestLost)


def name(error: Exception) -> str:
    return type(error).__name__


@pytest.mark.parametrize('error', ALL, ids=name)
def test_every_error_becomes_one_of_cinder(error: Exception) -> None:
    with pytest.raises(exception.CinderException) as found:
        with failures.translated():
            raise error
    assert str(error) in str(found.value)
    assert found.value.__cause__ is error


@pytest.mark.parametrize('error', ALL, ids=name)
def test_a_delete_is_busy_or_unclear(error: Exception) -> None:
    with pytest.raises(exception.CinderException) as found:
        with failures.translated_delete():
            raise error
    wanted = (exception.VolumeBackendAPIException
              if isinstance(error, UNCLEAR) else exception.SnapshotIsBusy)
    assert type(found.value) is wanted
    assert str(error) in str(found.value)


def test_a_lost_guest_is_unclear_whoever_tells() -> None:
    error = chain.GuestFailed(volume='v', reason='r', code='guest-lost')
    told = failures.translate_delete(error)
    assert type(told) is exception.VolumeBackendAPIException
    error = chain.GuestFailed(volume='v', reason='r', code='guest-state')
    told = failures.translate_delete(error)
    assert type(told) is exception.SnapshotIsBusy


def test_a_refusal_leaves_the_snapshot_usable() -> None:
    with pytest.raises(exception.SnapshotIsBusy, match='3 attachments'):
        with failures.translated_delete():
            raise failures.MultiAttached(volume='v', count=3)


@pytest.mark.parametrize(('error', 'kind'), [
    (made(chain.NotNewest), exception.InvalidSnapshot),
    (made(chain.SnapshotNotFound), exception.InvalidSnapshot),
    (made(chain.VolumeInUse), exception.InvalidVolume),
    (made(chain.NoSpace), exception.VolumeBackendAPIException),
    (made(chain.Disagreement), exception.VolumeBackendAPIException),
])
def test_table(error: Exception, kind: type[Exception]) -> None:
    assert type(failures.translate(error)) is kind


def test_extend_has_a_class_of_its_own() -> None:
    with pytest.raises(exception.ExtendVolumeError, match='1 free'):
        with failures.translated_extend():
            raise made(chain.NoSpace)


def test_what_is_not_ours_passes() -> None:
    with pytest.raises(ZeroDivisionError), failures.translated():
        raise ZeroDivisionError


@pytest.mark.parametrize('kind', [
    kind for kind in subclasses(exception.CinderException)
    if kind.__module__ == failures.__name__], ids=lambda kind: kind.__name__)
def test_every_template_is_complete(kind: type[Any]) -> None:
    class Fields(dict[str, str]):
        def __missing__(self, key: str) -> str:
            return f'<{key}>'

    assert '%' not in kind.message % Fields()


def test_a_delete_that_a_full_share_stopped_can_be_repeated() -> None:
    with pytest.raises(exception.CinderException) as found:
        with failures.translated_delete():
            raise OSError(errno.ENOSPC, 'No space left on device')
    assert type(found.value) is exception.SnapshotIsBusy
