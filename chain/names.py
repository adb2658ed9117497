# SPDX-License-Identifier: Apache-2.0
"""Names of a volume's files, and which names are acceptable at all.

Every name that comes from a header, from .info, from a message or from the
command line passes here before it is joined to a folder.  This module must
never touch a file, and never let a name through that could leave the folder,
that QEMU reads as a protocol, or that a command reads as an option.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import re

from assisted_snapshots.chain import errors

#: Longest name of a layer.  File systems allow 255 bytes; the rest is room
#: for the suffix of a temporary file beside it.
MAX_NAME = 240

#: Ends of names that are bookkeeping, never layers.
RESERVED = ('.info', '.journal', '.lock', '.tmp', '.view')

_ALLOWED = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*\Z')
_PREFIX = 'volume-'


def _fault(value: object) -> str | None:
    """Return why a value cannot be a bare file name, None if it can."""
    if not isinstance(value, str):
        return 'it is not text'
    if not value:
        return 'it is empty'
    if len(value.encode(errors='surrogatepass')) > MAX_NAME:
        return f'it is longer than {MAX_NAME} bytes'
    if '/' in value:
        return 'it holds a slash'
    if '..' in value:
        return 'it holds ".."'
    if ':' in value:
        return 'QEMU reads a colon as a protocol'
    if value[0] in '-.':
        return f'it begins with "{value[0]}"'
    if not _ALLOWED.match(value):
        return 'it holds characters other than A-Z a-z 0-9 _ . -'
    if value.endswith(RESERVED):
        return f'names ending in {" ".join(RESERVED)} are reserved'
    return None


def check_name(what: str, value: object) -> str:
    """Return a bare file name, or refuse it.

    :param what: what the name is of, for the message.
    :raises BadName: it is not a bare, harmless name of a layer.
    """
    reason = _fault(value)
    if reason is not None:
        raise errors.BadName(what=what, name=value, reason=reason)
    return str(value)


def check_snapshot_id(value: object) -> str:
    """Return a snapshot id, or refuse it.

    :raises BadName: it cannot be part of a file name or a key of .info.
    """
    name = check_name('snapshot', value)
    reason = None
    if name == 'active':
        reason = '.info uses this key for the active layer'
    elif ('.' + name).endswith(RESERVED):
        reason = f'names ending in {" ".join(RESERVED)} are reserved'
    if reason is not None:
        raise errors.BadName(what='snapshot', name=name, reason=reason)
    return name


@dataclass(frozen=True, slots=True)
class VolumeFiles:
    """Where the files of one volume are.

    :ivar folder: the share's folder as mounted here.
    :ivar name: name of the volume, which is also that of its base layer.
    """

    folder: Path
    name: str

    def __post_init__(self) -> None:
        check_name('volume', self.name)
        if '.' in self.name:
            raise errors.BadName(
                what='volume', name=self.name,
                reason='a dot separates a volume from its snapshots')

    @property
    def id(self) -> str:
        """The volume's id: its name without Cinder's prefix."""
        return self.name.removeprefix(_PREFIX)

    @property
    def base(self) -> Path:
        """The base layer as first created."""
        return self.folder / self.name

    @property
    def info(self) -> Path:
        """Upstream's metadata."""
        return self.folder / f'{self.name}.info'

    @property
    def journal(self) -> Path:
        """Formats and the operation in flight; upstream ignores it."""
        return self.folder / f'{self.name}.journal'

    @property
    def lock(self) -> Path:
        """Lock file for callers without a distributed lock."""
        return self.folder / f'{self.name}.lock'

    def overlay(self, snapshot_id: str) -> str:
        """Name of the overlay made when a snapshot is taken."""
        name = f'{self.name}.{check_snapshot_id(snapshot_id)}'
        return check_name('overlay', name)

    def owns(self, file: str) -> bool:
        """Tell whether a file name belongs to this volume."""
        return file == self.name or file.startswith(self.name + '.')

    def path(self, layer: str) -> Path:
        """Path of a layer of this volume.

        :raises BadName: the name is bad or another volume's.
        """
        if not self.owns(check_name('layer', layer)):
            raise errors.BadName(what='layer', name=layer,
                                 reason=f'it is no file of {self.name}')
        return self.folder / layer
