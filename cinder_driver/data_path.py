# SPDX-License-Identifier: Apache-2.0
"""Methods by which Cinder itself reads and writes volumes.

The part of the mixin that backup, migration, upload and download come
through; thin, like the rest of it.
"""

from __future__ import annotations

from typing import Any

from cinder import objects
from cinder.context import RequestContext

from assisted_snapshots.cinder_driver import failures
from assisted_snapshots.cinder_driver.backend import Backend
from assisted_snapshots.cinder_driver.images import Download
from assisted_snapshots.cinder_driver.images import Upload
from assisted_snapshots.cinder_driver.views import Views

Update = dict[str, Any]


class DataPath:
    """What Cinder does with a volume's content."""

    backend: Backend
    views: Views

    def terminate_connection(self, volume: objects.Volume,
                             connector: Update | None,
                             **_kwargs: Any) -> None:
        """End what a connection of Cinder itself needed."""
        with self.backend.locked(volume.id), failures.translated():
            self.views.close(volume, connector)

    def initialize_connection_snapshot(self, snapshot: objects.Snapshot,
                                       connector: Update,
                                       **_kwargs: Any) -> Update:
        """Let Cinder's backup read what a snapshot holds."""
        with (self.backend.locked(snapshot.volume_id),
              failures.translated()):
            return self.views.open_snapshot(snapshot, connector)

    def terminate_connection_snapshot(self, snapshot: objects.Snapshot,
                                      connector: Update | None,
                                      **_kwargs: Any) -> None:
        """End what such a connection needed."""
        with (self.backend.locked(snapshot.volume_id),
              failures.translated()):
            self.views.close_snapshot(snapshot, connector)

    def backup_use_temp_snapshot(self) -> bool:
        """Back snapshots up as they are, volumes in use by a snapshot.

        Upstream's option of this name would choose a full copy instead,
        for drivers that cannot show a snapshot.
        """
        return True

    def copy_volume_to_image(self, context: RequestContext,
                             volume: objects.Volume, image_service: Any,
                             image_meta: Update) -> None:
        """Make an image of what a guest would see."""
        Upload(self.backend, self.views).run(context, volume, image_service,
                                             image_meta)

    def copy_image_to_volume(self, context: RequestContext,
                             volume: objects.Volume, image_service: Any,
                             image_id: str,
                             disable_sparse: bool = False) -> None:
        """Make an image the volume's content."""
        Download(self.backend).run(context, volume, image_service, image_id)

    def copy_image_to_encrypted_volume(self, context: RequestContext,
                                       volume: objects.Volume,
                                       image_service: Any, image_id: str,
                                       disable_sparse: bool = False) -> None:
        """Make a plain image the content of an encrypted volume."""
        Download(self.backend).run(context, volume, image_service, image_id,
                                   encrypt=True)
