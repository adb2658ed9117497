# SPDX-License-Identifier: Apache-2.0
"""What a volume looks like at one moment, as immutable values.

No I/O: :mod:`assisted_snapshots.chain.reader` makes these from the files on
a share, the planner and the operations reason about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
import enum
from types import MappingProxyType


class Format(enum.StrEnum):
    """Image formats a layer can have; the value is QEMU's driver name."""

    RAW = 'raw'
    QCOW2 = 'qcow2'


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a chain.

    :ivar name: bare file name in the share's folder.
    :ivar format: the pinned format, never probed.
    :ivar virtual_size: size the guest sees, in bytes.
    :ivar allocated: bytes the file occupies on the share (``st_blocks``);
        an upper bound of what copying this layer moves.
    :ivar backing: bare name of the layer below, None for the base.
    :ivar encrypted: True where the qcow2 payload is LUKS.
    """

    name: str
    format: Format
    virtual_size: int
    allocated: int
    backing: str | None = None
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """The layers of a volume, base first, active layer last."""

    layers: tuple[Layer, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """File names, base first."""
        return tuple(layer.name for layer in self.layers)

    @property
    def base(self) -> Layer:
        """The lowest layer."""
        return self.layers[0]

    @property
    def active(self) -> Layer:
        """The layer that takes the guest's writes."""
        return self.layers[-1]

    @property
    def virtual_size(self) -> int:
        """Size of the volume in bytes: that of the active layer."""
        return self.active.virtual_size

    @property
    def allocated(self) -> int:
        """Bytes all layers occupy together."""
        return sum(layer.allocated for layer in self.layers)

    def index(self, name: str) -> int | None:
        """Position of a layer counted from the base, None if not in it."""
        return self.names.index(name) if name in self.names else None


@dataclass(frozen=True, slots=True)
class VolumeState:
    """A chain and the snapshots that live in it.

    :ivar volume: name of the volume, ``volume-<id>``: the base layer's
        original file name, and the prefix of all its files.
    :ivar chain: its layers.
    :ivar snapshots: snapshot id -> overlay made when it was taken.  The
        snapshot's own data are the layers *below* that overlay.
    """

    volume: str
    chain: Chain
    snapshots: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}))

    def held(self, snapshot_id: str) -> Chain | None:
        """Return the layers that are a snapshot's content; None if none."""
        overlay = self.snapshots.get(snapshot_id)
        if overlay is None:
            return None
        return Chain(self.chain.layers[:self.chain.names.index(overlay)])

    def ordered_snapshots(self) -> tuple[str, ...]:
        """Snapshot ids, oldest first."""
        place = {name: i for i, name in enumerate(self.chain.names)}
        return tuple(sorted(self.snapshots,
                            key=lambda s: place[self.snapshots[s]]))
