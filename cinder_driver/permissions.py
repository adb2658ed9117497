# SPDX-License-Identifier: Apache-2.0
"""Whether this process can do on a share what the driver will have to do.

Tried once at the start, as the user that Cinder runs as, on a file of its
own: better a backend that is down with a reason than a snapshot that fails
half-way.  The files of a chain are never made, changed or removed by root,
in secure mode or not.  This module must never touch a volume's files, and
never leave its own.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
import fcntl
import os
from pathlib import Path
import re
import stat
import struct
import uuid

from cinder import exception
from oslo_log import log as logging

from assisted_snapshots.chain.store import sync_folder
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.native import native

LOG = logging.getLogger(__name__)

_FLOCK = struct.Struct('hhqqi4x')
_MOUNTINFO = Path('/proc/self/mountinfo')
_PREFIX = '.assisted-snapshots-'
_ESCAPED = re.compile(r'\\([0-7]{3})')
#: Mount options with which no other host knows of our locks.
_LOCAL = frozenset(('nolock', 'local_lock=all', 'local_lock=posix'))

#: What was tried -> what failed, and what to do about it.
_STEPS = {
    'create': ('it cannot make files in that folder',
               'Make uid {uid} the owner of the exported folder, or make one '
               'of its groups the group of the folder with write permission; '
               'export it read-write.'),
    'chmod': ('it cannot set the mode of a file that it has made',
              'Let files belong to who makes them: export the share to this '
              'host without squashing uid {uid}.'),
    'write': ('it cannot write to a file that it has made',
              'Look at the quota and the free space of the share.'),
    'fsync': ('it cannot flush a file',
              'Look at the log of the file server.'),
    'lock': ('it cannot lock a file',
             'Mount the share with NFS 4, or run the lock services of '
             'NFS 3 on server and clients.'),
    'rename': ('it cannot rename a file that it has made',
               'Give uid {uid} write permission to the folder.'),
    'unlink': ('it cannot remove a file that it has made',
               'Give uid {uid} write permission to the folder.'),
}


class ShareUnusable(exception.VolumeDriverException):
    """The share does not let the driver do its work."""

    message = ('share %(share)s at %(folder)s cannot be used: Cinder runs as '
               'uid %(uid)s, gid %(gid)s, groups %(groups)s, and %(problem)s. '
               'The folder has owner %(owner)s, group %(group)s, mode '
               '%(mode)s. %(remedy)s')


@dataclass(frozen=True, slots=True)
class Access:
    """Owner, group and mode of a file."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Access:
        """Return those of a file's status."""
        return cls(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


@dataclass(frozen=True, slots=True)
class Trial:
    """What trying has shown.

    :ivar uid: who tried, with :attr:`gid` and :attr:`groups`.
    :ivar folder: of the share.
    :ivar wanted: the mode that files shall have.
    :ivar file: a file that was made; None if none could be.
    :ivar failed: the step that failed, with :attr:`why`; None if none did.
    :ivar mount: file system type and options of the mount.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    folder: Access
    wanted: int
    file: Access | None = None
    failed: str | None = None
    why: str = ''
    mount: tuple[str, frozenset[str]] = ('', frozenset())


def check(backend: Backend) -> None:
    """See that every mounted share can be used; called at the start.

    :raises ShareUnusable: one cannot.
    """
    for share in backend.driver._mounted_shares:
        folder = backend.share_folder(share)
        trial = native(attempt, folder, backend.mode())
        found = fault(trial)
        if found:
            raise ShareUnusable(
                share=share, folder=folder, uid=trial.uid, gid=trial.gid,
                groups=_list(trial.groups), owner=trial.folder.uid,
                group=trial.folder.gid, mode=f'{trial.folder.mode:04o}',
                problem=found[0], remedy=found[1])
        for text in advice(trial):
            LOG.warning('Share %(share)s: %(text)s',
                        {'share': share, 'text': text})


def attempt(folder: Path, mode: int) -> Trial:
    """Try on a file of this module's own; removed whatever happens."""
    aside = folder / f'{_PREFIX}{uuid.uuid4()}'
    later = aside.with_suffix('.renamed')
    trial = Trial(os.geteuid(), os.getegid(), tuple(sorted(os.getgroups())),
                  Access.of(folder.stat()), mode,
                  mount=mount_of(_MOUNTINFO.read_text(), folder))
    begun: list[str] = []
    try:
        return replace(trial, file=_work(aside, later, mode, begun.append))
    except OSError as exc:
        _sweep(aside, later)
        return replace(trial, failed=begun[-1],
                       why=exc.strerror or str(exc))


def _work(aside: Path, later: Path, mode: int,
          step: Callable[[str], None]) -> Access:
    """Do to a file all that the driver does; what the file looked like."""
    step('create')
    fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                 | os.O_CLOEXEC, 0o600)
    try:
        step('chmod')
        os.fchmod(fd, mode)
        step('write')
        os.write(fd, b'.')
        step('fsync')
        os.fsync(fd)
        step('lock')
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(
            fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        found = Access.of(os.fstat(fd))
    finally:
        os.close(fd)
    step('rename')
    aside.rename(later)
    sync_folder(later.parent)
    step('unlink')
    later.unlink()
    return found


def fault(trial: Trial) -> tuple[str, str] | None:
    """Return why the share cannot be used, and the remedy."""
    if trial.failed:
        what, remedy = _STEPS[trial.failed]
        return f'{what} ({trial.why})', remedy.format(uid=trial.uid)
    kind, options = trial.mount
    local = sorted(options & _LOCAL) if kind.startswith('nfs') else []
    if local:
        return (f'the share is mounted with {local[0]}, so other hosts do '
                f'not see its locks and nothing keeps them off a volume',
                'Unmount it and mount it without that option.')
    if trial.file and trial.file.mode != trial.wanted:
        return (f'a file that was given mode {trial.wanted:04o} has '
                f'{trial.file.mode:04o}',
                'Look for access control lists on the exported folder.')
    return None


def advice(trial: Trial) -> list[str]:
    """Return what may keep QEMU from files that are not for everybody."""
    if trial.file is None or trial.wanted & 0o006:
        return []
    found = []
    if trial.file.uid != trial.uid:
        found.append(
            f'files of uid {trial.uid} belong to uid {trial.file.uid} there, '
            f'so the server maps users; whoever else it maps to that uid '
            f'owns every volume.')
    if not trial.folder.mode & 0o010:
        found.append(
            f'the folder has mode {trial.folder.mode:04o}, so its group '
            f'cannot reach the files; QEMU must run as uid '
            f'{trial.file.uid}.')
    elif not trial.folder.mode & stat.S_ISGID \
            and trial.file.gid != trial.folder.gid:
        found.append(
            f'files get group {trial.file.gid}, not group '
            f'{trial.folder.gid} of the folder, because the folder lacks '
            f'the setgid bit (chmod g+s); users of QEMU must be in group '
            f'{trial.file.gid}.')
    return found


def mount_of(mountinfo: str, folder: Path) -> tuple[str, frozenset[str]]:
    """Return file system type and options of what is mounted at a folder.

    :param mountinfo: as the kernel tells it of a process.
    """
    best, kind, options = -1, '', frozenset[str]()
    for row in mountinfo.splitlines():
        before, _, after = row.partition(' - ')
        fields, told = before.split(), after.split()
        point = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)),
                                  fields[4]))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), told[0]
            options = frozenset((*fields[5].split(','),
                                 *told[2].split(',')))
    return kind, options


def _sweep(*paths: Path) -> None:
    """Remove what is left, if this user may."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            LOG.warning('Could not remove %(path)s: %(error)s',
                        {'path': path, 'error': exc})


def _list(groups: Sequence[int]) -> str:
    return ', '.join(map(str, groups)) or 'none'
