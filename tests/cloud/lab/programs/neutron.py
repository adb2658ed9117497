# SPDX-License-Identifier: Apache-2.0
"""Plays Neutron for servers without networks: whatever is made is kept.

``neutron.py PORT``.  Nova asks Neutron even where a server is to have no
network, and tempest makes security groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import server
import json
import sys
from typing import Any
from urllib import parse
import uuid

Record = dict[str, Any]
#: What was made, by its kind's plural.
KEPT: dict[str, list[Record]] = {}


def answer(path: str, port: int) -> Record:
    """What a GET of this path returns."""
    url = parse.urlsplit(path)
    words = [word for word in url.path.split('/') if word]
    if words in ([], ['v2.0']):
        link = {'rel': 'self', 'href': f'http://127.0.0.1:{port}/v2.0/'}
        return {'versions': [{'id': 'v2.0', 'status': 'CURRENT',
                              'links': [link]}]}
    if 'quotas' in words:
        return {'quota': {'port': -1, 'network': -1}}
    query = parse.parse_qs(url.query)
    plural = words[-1].replace('-', '_')
    return {plural: [record for record in KEPT.get(plural, ())
                     if matches(record, query)]}


def matches(record: Record, query: Mapping[str, list[str]]) -> bool:
    """Whether a record is among those that are asked for."""
    return all(str(record[key]) in values
               for key, values in query.items() if key in record)


def make(path: str, body: Record) -> Record:
    """Keep what is made by a POST."""
    plural = path.rstrip('/').rpartition('/')[2].replace('-', '_')
    ((kind, record),) = body.items()
    record['id'] = str(uuid.uuid4())
    record['tenant_id'] = record.get('project_id')
    KEPT.setdefault(plural, []).append(record)
    return {kind: record}


def remove(path: str) -> None:
    """Forget what a DELETE names."""
    key = path.rpartition('/')[2]
    for records in KEPT.values():
        records[:] = [record for record in records if record['id'] != key]


class Handler(server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        """Answer a GET."""
        self._send(200, answer(self.path, int(sys.argv[1])))

    def do_POST(self) -> None:
        """Make something."""
        size = int(self.headers['Content-Length'])
        self._send(201, make(self.path, json.loads(self.rfile.read(size))))

    def do_DELETE(self) -> None:
        """Remove something."""
        remove(self.path)
        self.send_response(204)
        self.end_headers()

    def _send(self, status: int, content: Record) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == '__main__':
    server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])),
                               Handler).serve_forever()
