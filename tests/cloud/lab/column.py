# SPDX-License-Identifier: Apache-2.0
"""Faults one after the other in one cloud, each on ground that is sound.

What a fault has spoilt is left behind: the next one gets a volume, and
where need be a server, of its own.
"""

from __future__ import annotations

from contextlib import suppress

from tests.cloud.lab.api import Api
from tests.cloud.lab.api import HttpError
from tests.cloud.lab.cloud import Cloud
from tests.cloud.lab.faults import Fault
from tests.cloud.lab.project import Project
from tests.cloud.lab.scene import Operation
from tests.cloud.lab.scene import Scene
from tests.cloud.lab.server import Server
from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.stage import BLOCKS
from tests.cloud.lab.stage import DELAY
from tests.cloud.lab.stage import Stage
from tests.cloud.lab.verdict import DOWN
from tests.cloud.lab.verdict import judge
from tests.cloud.lab.verdict import LOST
from tests.cloud.lab.verdict import Verdict
from tests.functional.lab import share

#: Seconds after which what waits for something is called stuck.
PATIENCE = 60


class Column:
    """One cloud in which faults are played."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._project = Project(Api(cloud.settings))
        self._server: Server | None = None
        self._stage: Stage | None = None

    def play(self, fault: Fault, operation: Operation) -> Verdict:
        """Play one fault during one operation, and judge."""
        scene = self.scene(operation)
        verdict = Verdict()
        self._stage, stage = None, self._stage
        try:
            scene.prepare()
            fault.play(scene)
            verdict = judge(scene, PATIENCE)
        finally:
            if verdict.sound:
                self._stage = stage
            else:
                self._abandon(scene, verdict)
        return verdict

    def scene(self, operation: Operation) -> Scene:
        """An operation on ground that is sound."""
        return Scene(self.cloud, self._ground(), operation)

    def clear(self) -> None:
        """Leave nothing, after a proof of what is there."""
        if self._stage is not None:
            stage, self._stage = self._stage, None
            stage.finish()
            for snapshot in [*stage.snapshots]:
                self._project.delete_snapshot(snapshot)
            self._project.delete_volume(stage.id)
        if self._server is not None:
            server, self._server = self._server, None
            self._project.delete_server(server.id)

    def _ground(self) -> Stage:
        if self._stage is None:
            if self._server is None:
                self._server = Server.boot(
                    self._project, self.cloud.settings, HOSTS[0])
            volume = self._project.volume()
            self._server.attach(volume)
            writer = self._server.writer(volume, BLOCKS, DELAY)
            writer.start()
            files = share.Volume(self.cloud.settings.share, volume, 'raw',
                                 share.GIB)
            self._stage = Stage(self.cloud.settings, self._project,
                                self._server, files, writer)
        return self._stage

    def _abandon(self, scene: Scene, verdict: Verdict) -> None:
        """Bring back what should run, and give the volume up by force.

        A server whose guest is not sound is given up too.
        """
        scene.mend()
        if not verdict.judged or {LOST, DOWN} & {*verdict.found}:
            server, self._server = self._server, None
            if server is not None:
                with suppress(AssertionError, HttpError):
                    self._project.delete_server(server.id)
        api = scene.stage.project.api.volume
        volume = scene.stage.id
        with suppress(HttpError):
            found = api.get(f'/snapshots/detail?volume_id={volume}')
            for one in found['snapshots']:
                api.post(f'/snapshots/{one["id"]}/action',
                         {'os-force_delete': {}})
