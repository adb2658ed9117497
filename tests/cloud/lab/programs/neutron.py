# SPDX-License-Identifier: Apache-2.0
"""Plays Neutron for servers without networks: every list is empty.

``neutron.py PORT``.  Nova asks Neutron even where a server is to have no
network.
"""

from __future__ import annotations

from http import server
import json
import sys
from typing import Any


def answer(path: str, port: int) -> dict[str, Any]:
    """What a GET of this path returns."""
    words = [word for word in path.partition('?')[0].split('/') if word]
    if words in ([], ['v2.0']):
        link = {'rel': 'self', 'href': f'http://127.0.0.1:{port}/v2.0/'}
        return {'versions': [{'id': 'v2.0', 'status': 'CURRENT',
                              'links': [link]}]}
    if 'quotas' in words:
        return {'quota': {'port': -1, 'network': -1}}
    return {words[-1].replace('-', '_'): []}


class Handler(server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        """Answer a GET."""
        body = json.dumps(answer(self.path, int(sys.argv[1]))).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == '__main__':
    server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])),
                               Handler).serve_forever()
