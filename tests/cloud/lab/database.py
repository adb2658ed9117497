# SPDX-License-Identifier: Apache-2.0
"""The laboratory's MariaDB as a cloud has it: marked, with its databases."""

from __future__ import annotations

from tests.cloud.lab import process
from tests.cloud.lab.settings import Settings
from tests.functional.lab import database

DATABASES = ('keystone', 'placement', 'glance', 'nova_api', 'nova',
             'nova_cell0', 'cinder')


class Database(database.Database):
    """The MariaDB of a cloud, with empty databases at first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__(settings.data / 'database',
                         settings.ports['database'],
                         settings.log / 'mariadb.log')

    def start(self) -> None:
        """Start it and wait until it can be used."""
        super().start()
        for name in DATABASES:
            self.create(name)

    def _environment(self) -> dict[str, str]:
        return process.environment(self._settings)
