# SPDX-License-Identifier: Apache-2.0
"""The cloud's REST interfaces, as an administrator's client sees them.

Thin on purpose: what a test sends and gets is what the documentation of
the interfaces shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystoneauth1 import adapter
from keystoneauth1 import exceptions
from keystoneauth1 import session
from keystoneauth1.identity import v3

from tests.cloud.lab.settings import REGION
from tests.cloud.lab.settings import Settings

NotFound = exceptions.NotFound
BadRequest = exceptions.BadRequest
HttpError = exceptions.HttpError
ConnectFailure = exceptions.ConnectFailure

Answer = dict[str, Any]
#: Service type -> microversion.
VERSIONS = {'compute': '2.96', 'block-storage': '3.70'}


class Service:
    """One service's interface; answers are parsed."""

    def __init__(self, keystone: session.Session, kind: str,
                 url: str | None = None) -> None:
        self._adapter = adapter.Adapter(
            keystone, service_type=kind, interface='public',
            region_name=REGION, endpoint_override=url,
            default_microversion=VERSIONS.get(kind))

    def get(self, path: str) -> Answer:
        """GET."""
        return self._send('GET', path)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """POST."""
        return self._send('POST', path, json=dict(body))

    def put(self, path: str, body: Mapping[str, Any] | None = None
            ) -> Answer:
        """PUT."""
        return self._send('PUT', path, json=body)

    def upload(self, path: str, data: bytes) -> None:
        """PUT of bytes."""
        self._send('PUT', path, data=data, headers={
            'Content-Type': 'application/octet-stream'})

    def delete(self, path: str) -> None:
        """DELETE."""
        self._send('DELETE', path)

    def _send(self, method: str, path: str, **arguments: Any) -> Answer:
        response = self._adapter.request(path, method, **arguments)
        return dict(response.json()) if response.text else {}


class Api:
    """All services, with the administrator's credentials.

    :param project: whose view it is.
    """

    def __init__(self, settings: Settings, project: str = '') -> None:
        login = settings.credentials
        keystone = session.Session(v3.Password(
            login['OS_AUTH_URL'], username=login['OS_USERNAME'],
            password=login['OS_PASSWORD'],
            project_name=project or login['OS_PROJECT_NAME'],
            user_domain_name=login['OS_USER_DOMAIN_NAME'],
            project_domain_name=login['OS_PROJECT_DOMAIN_NAME']))
        self._keystone = keystone
        self.identity = Service(keystone, 'identity', settings.auth_url)
        self.compute = Service(keystone, 'compute')
        self.volume = Service(keystone, 'block-storage')
        self.image = Service(keystone, 'image')

    def project_id(self) -> str:
        """The project whose view it is."""
        return str(self._keystone.get_project_id())
