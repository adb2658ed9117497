# SPDX-License-Identifier: Apache-2.0
"""What is shown, as values: one chain, and one plan.

The documents made here (``-f json``, ``-f yaml``) are read by scripts: keys
are only ever added.  Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.chain.value import VolumeState

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attachment:
    """The guest that has the volume.

    :ivar host: the host whose agent says so.
    :ivar domain: libvirt's name of the guest.
    :ivar device: the disk's target, ``vdb``.
    :ivar running: False for a guest that is shut off.
    :ivar layers: the live chain, base first.
    :ivar job_id: unfinished job on the disk, empty if none.
    """

    host: str
    domain: str
    device: str
    running: bool
    layers: tuple[str, ...]
    job_id: str = ''

    def __str__(self) -> str:
        off = '' if self.running else ', shut off'
        return f'guest {self.domain} ({self.device}{off}) on {self.host}'


@dataclass(frozen=True, slots=True)
class ChainView:
    """A chain as it is shown.

    :ivar attachment: None where no guest is known to have the volume.
    :ivar operation: one sentence on an unfinished operation, or empty.
    """

    state: VolumeState
    attachment: Attachment | None = None
    operation: str = ''

    @property
    def agrees(self) -> bool:
        """Do the share and the guest tell the same chain?"""
        return (self.attachment is None
                or self.attachment.layers == self.state.chain.names)

    @property
    def overlay_of(self) -> Mapping[str, str]:
        """Snapshot id by the overlay that was made when it was taken."""
        return {file: s for s, file in self.state.snapshots.items()}

    def snapshot_above(self, index: int) -> str | None:
        """Return the snapshot whose data end with this layer, if any."""
        layers = self.state.chain.layers
        if index + 1 == len(layers):
            return None
        return self.overlay_of.get(layers[index + 1].name)

    def document(self) -> Document:
        """Return the chain for scripts; layers base first."""
        chain = self.state.chain
        return {
            'volume': self.state.volume,
            'virtual_size': chain.virtual_size,
            'allocated': chain.allocated,
            'active': chain.active.name,
            'layers': [self._layer(i, layer)
                       for i, layer in enumerate(chain.layers)],
            'snapshots': self.snapshots(),
            'attachment': self._attachment(),
            'operation': self.operation or None,
        }

    def snapshots(self) -> list[Document]:
        """Return the snapshots, oldest first."""
        layers = self.state.chain.layers
        found = []
        for snapshot in self.state.ordered_snapshots():
            overlay = layers[self._place(self.state.snapshots[snapshot])]
            found.append({'id': snapshot, 'file': overlay.name,
                          'content': overlay.backing,
                          'written_since': overlay.allocated})
        return found

    def _place(self, file: str) -> int:
        return self.state.chain.names.index(file)

    def _layer(self, index: int, layer: Layer) -> Document:
        return {'name': layer.name, 'format': str(layer.format),
                'virtual_size': layer.virtual_size,
                'allocated': layer.allocated, 'backing': layer.backing,
                'encrypted': layer.encrypted,
                'active': index + 1 == len(self.state.chain.layers),
                'snapshot': self.overlay_of.get(layer.name)}

    def _attachment(self) -> Document | None:
        a = self.attachment
        return None if a is None else {
            'host': a.host, 'domain': a.domain, 'device': a.device,
            'running': a.running, 'layers': list(a.layers),
            'job_id': a.job_id or None, 'agrees': self.agrees}


def plan_document(plan: MergePlan, subject: str, attached: bool) -> Document:
    """Return a plan for scripts."""
    return {
        'volume': plan.volume,
        'subject': subject,
        'attached': attached,
        'method': str(plan.method),
        'direction': str(plan.direction),
        'merged': list(plan.merged),
        'survivor': plan.survivor,
        'removed': list(plan.removed),
        'child': plan.child,
        'new_backing': plan.new_backing,
        'changes_active': plan.changes_active,
        'before': list(plan.before),
        'after': list(plan.after),
        'snapshots_before': dict(plan.snapshots_before),
        'snapshots_after': dict(plan.snapshots_after),
        'copy_bytes': plan.copy_bytes,
        'other_bytes': plan.other_bytes,
    }
