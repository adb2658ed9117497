# SPDX-License-Identifier: Apache-2.0
"""Users, roles and the catalogue of the cloud's services."""

from __future__ import annotations

from typing import Any

from tests.cloud.lab.api import Api
from tests.cloud.lab.config import SERVICE_PROJECT
from tests.cloud.lab.settings import PASSWORD
from tests.cloud.lab.settings import REGION
from tests.cloud.lab.settings import Settings

USERS = ('nova', 'cinder', 'glance', 'placement')
ROLES = ('service', 'admin')
#: Name, type, whose port, path.
SERVICES = (
    ('nova', 'compute', 'nova', '/v2.1'),
    ('cinder', 'volumev3', 'cinder', '/v3/%(project_id)s'),
    ('cinder3', 'block-storage', 'cinder', '/v3/%(project_id)s'),
    ('glance', 'image', 'glance', ''),
    ('placement', 'placement', 'placement', ''),
    ('neutron', 'network', 'neutron', ''),
)


def populate(settings: Settings, api: Api) -> None:
    """Make all of them in a Keystone that was just bootstrapped."""
    _users(api)
    for name, kind, owner, path in SERVICES:
        service = _create(api, 'service', name=name, type=kind)
        for interface in ('public', 'internal', 'admin'):
            _create(api, 'endpoint', service_id=service, region_id=REGION,
                    interface=interface, url=settings.url(owner, path))


def project(api: Api, name: str) -> None:
    """Make a project in which the administrator is one too."""
    made = _create(api, 'project', name=name, domain_id='default')
    (user,) = api.identity.get('/users?name=admin')['users']
    (role,) = api.identity.get('/roles?name=admin')['roles']
    api.identity.put(
        f'/projects/{made}/users/{user["id"]}/roles/{role["id"]}')


def _users(api: Api) -> None:
    """The services' users; each may do everything, as in DevStack."""
    roles = {role['name']: role['id']
             for role in api.identity.get('/roles')['roles']}
    project = _create(api, 'project', name=SERVICE_PROJECT,
                      domain_id='default')
    for name in USERS:
        user = _create(api, 'user', name=name, domain_id='default',
                       password=PASSWORD)
        for role in ROLES:
            api.identity.put(f'/projects/{project}/users/{user}/roles/'
                             f'{roles[role]}')


def _create(api: Api, kind: str, **attributes: Any) -> str:
    answer = api.identity.post(f'/{kind}s', {kind: attributes})
    return str(answer[kind]['id'])
