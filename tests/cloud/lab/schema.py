# SPDX-License-Identifier: Apache-2.0
"""The services' tables, made by their own commands."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent import futures

from tests.cloud.lab.process import Process
from tests.cloud.lab.settings import PASSWORD
from tests.cloud.lab.settings import REGION
from tests.cloud.lab.settings import Settings

Step = Sequence[str]
Program = tuple[str, Sequence[Step]]

NOVA: Sequence[Step] = (
    ('api_db', 'sync'), ('cell_v2', 'map_cell0'),
    ('cell_v2', 'create_cell', '--name=cell1'), ('db', 'sync'))


def create(settings: Settings) -> None:
    """Fill the empty databases."""
    url = settings.auth_url
    bootstrap = ('bootstrap', '--bootstrap-password', PASSWORD,
                 '--bootstrap-region-id', REGION,
                 '--bootstrap-public-url', url,
                 '--bootstrap-internal-url', url,
                 '--bootstrap-admin-url', url)
    keys = ('--keystone-user', 'root', '--keystone-group', 'root')
    for name in ('fernet', 'credential'):
        (settings.data / 'keystone' / name).mkdir(parents=True)
    chains: Sequence[Sequence[Program]] = (
        (('keystone-manage', (('db_sync',), ('fernet_setup', *keys),
                              ('credential_setup', *keys), bootstrap)),
         ('placement-manage', (('db', 'sync'),))),
        (('nova-manage', NOVA),),
        (('cinder-manage', (('db', 'sync'),)),
         ('glance-manage', (('db_sync',),))))
    with futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(_run, settings, chain) for chain in chains]:
            done.result()


def _run(settings: Settings, programs: Sequence[Program]) -> None:
    for program, steps in programs:
        config = settings.config(program.removesuffix('-manage'))
        for number, step in enumerate(steps):
            Process(settings, f'{program}-{number}', [
                program, '--config-file', config, *step]).run()
