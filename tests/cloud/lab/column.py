# SPDX-License-Identifier: Apache-2.0
"""Faults one after the other in one cloud, each on ground that is sound.

What a fault has spoilt is left behind and never touched again: the next one
gets a project, a server and a volume of its own.
"""

from __future__ import annotations

from contextlib import suppress
import uuid

import libvirt

from tests.cloud.lab import identity
from tests.cloud.lab.api import Api
from tests.cloud.lab.api import HttpError
from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.faults import Fault
from tests.cloud.lab.project import Project
from tests.cloud.lab.scene import NeverBegan
from tests.cloud.lab.scene import Operation
from tests.cloud.lab.scene import Scene
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.stage import BLOCKS
from tests.cloud.lab.stage import DELAY
from tests.cloud.lab.stage import Stage
from tests.cloud.lab.verdict import judge
from tests.cloud.lab.verdict import Verdict
from tests.functional.lab import share

#: Seconds after which what waits for something is called stuck.
PATIENCE = 60


class Column:
    """One cloud in which faults are played."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._stage: Stage | None = None

    def play(self, fault: Fault, operation: Operation) -> Verdict:
        """Play one fault during one operation, and judge."""
        try:
            scene = self.scene(operation)
            scene.prepare()
            verdict = self._played(fault, scene)
        except Exception:
            self._abandon()
            raise
        if not verdict.sound:
            self._abandon()
        return verdict

    def _played(self, fault: Fault, scene: Scene) -> Verdict:
        """Judge also what has kept a fault from being played to its end.

        But only if it struck, and if what is found explains it: otherwise
        the laboratory itself may have failed.
        """
        try:
            fault.play(scene)
        except NeverBegan:
            raise
        except Exception as exc:
            self._mend()
            verdict = judge(scene, PATIENCE)
            if verdict.sound:
                raise
            verdict.broken_off = f'{type(exc).__name__}: {exc}'
            return verdict
        return judge(scene, PATIENCE)

    def scene(self, operation: Operation) -> Scene:
        """An operation on ground that is sound."""
        return Scene(self.cloud, self._ground(), operation)

    def clear(self) -> None:
        """Leave nothing, after a proof of what is there."""
        if self._stage is None:
            return
        stage, self._stage = self._stage, None
        stage.finish()
        for snapshot in [*stage.snapshots]:
            stage.project.delete_snapshot(snapshot)
        stage.project.delete_volume(stage.id)
        stage.project.delete_server(stage.server.id)

    def _ground(self) -> Stage:
        if self._stage is None:
            settings = self.cloud.settings
            name = f'ground-{uuid.uuid4()}'
            identity.project(self.cloud.api, name)
            project = Project(Api(settings, name))
            server = Server.boot(project, settings, HOSTS[0])
            volume = project.volume()
            server.attach(volume)
            writer = server.writer(volume, BLOCKS, DELAY)
            writer.start()
            files = share.Volume(settings.share, volume, 'raw', share.GIB)
            self._stage = Stage(settings, project, server, files, writer)
        return self._stage

    def _abandon(self) -> None:
        """Bring back what should run, and give up the ground.

        The guest and the files go by force.  What OpenStack remembers of
        them stays, in a project that nobody looks at any more.
        """
        self._mend()
        stage, self._stage = self._stage, None
        if stage is None:
            return
        with suppress(libvirt.libvirtError):
            stage.server.domain.destroy()
        with suppress(HttpError):
            stage.project.api.compute.delete(f'/servers/{stage.server.id}')
        for name in stage.files.files():
            (stage.files.folder / name).unlink(missing_ok=True)

    def _mend(self) -> None:
        """Start whatever does not run."""
        services = [*self.cloud.services.values(), *(
            service for host in self.cloud.hosts.values()
            for service in host.services)]
        for service in services:
            if not service.running:
                service.start()
        self.cloud.wait_ready()
