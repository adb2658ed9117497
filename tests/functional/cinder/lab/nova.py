# SPDX-License-Identifier: Apache-2.0
"""Stands in for an unmodified Nova: its REST API and its libvirt driver.

It does to the laboratory's guests the very libvirt calls that upstream's
LibvirtDriver does for assisted snapshots, with its mistakes (a block job
that has vanished counts as done), and answers through Cinder's real API
code.  Only what a running Nova cannot be made to do on demand is why it is
here: to refuse, to lie, to be late, to lose its answer, to die.  A real Nova
is driven by tests/cloud.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
import http.server
import json
from pathlib import Path
import socket
import threading
import time
from typing import Any
from urllib import parse
from xml.etree import ElementTree as ET

from cinder import context
from cinder import objects
from cinder.api.contrib import snapshot_actions
from cinder.api.openstack import api_version_request
from cinder.api.openstack import wsgi
from cinder.compute import nova as cinder_nova
import libvirt
from oslo_config import cfg

from tests.functional.cinder.lab.inuse import InUse
from tests.functional.lab.guest import Guest
from tests.functional.lab.share import Volume

_CREATE = (libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
           | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
           | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT)
_SNAPSHOT = ("<domainsnapshot><disks><disk name='{old}' snapshot='external' "
             "type='file'><source file='{new}'/></disk></disks>"
             "</domainsnapshot>")
_POLL = 0.1


@dataclass
class Server:
    """What Nova knows of one server.

    :ivar task_state: what it is doing with it.
    :ivar vm_state: if it is not what libvirt says.
    :ivar bdm: volume -> connection info, as it would boot from.
    """

    guest: Guest
    volumes: dict[str, Volume]
    task_state: str | None = None
    vm_state: str = ''
    bdm: dict[str, Any] = field(default_factory=dict)

    def state(self) -> str:
        """Nova's word for the server's state."""
        if self.vm_state:
            return self.vm_state
        if not self.guest.active():
            return 'stopped'
        paused = libvirt.VIR_DOMAIN_PAUSED
        return 'paused' if self.guest.domain.state()[0] == paused else (
            'active')


def _nothing(*_: object) -> None:
    pass


@dataclass
class Behaviour:
    """How Nova misbehaves; by default it does not.

    :ivar refuse: HTTP status of every request.
    :ivar before: called before the hypervisor is; may wait, or raise.
    :ivar work: do what was asked at all.
    :ivar word: status that is reported in place of the true one; empty for
        none at all.
    :ivar bandwidth: of block jobs, in MiB/s; 0 is no limit.
    """

    refuse: int = 0
    before: Callable[..., object] = _nothing
    work: bool = True
    word: str | None = None
    bandwidth: int = 0


class Nova:
    """The service; :attr:`requests` is what it was asked.

    :ivar behaviour: may be changed at any time.
    """

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.behaviour = Behaviour()
        self.requests: list[tuple[str, Any]] = []
        self.reports: list[tuple[str, str, int]] = []
        self._threads: list[threading.Thread] = []
        self._http: _Listener | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f'http://127.0.0.1:{self._port}/v2.1'

    def start(self) -> None:
        """Listen, on the same port as before."""
        handler = type('Handler', (_Handler,), {'nova': self})
        self._http = _Listener(self._port, handler)
        self._port = self._http.port

    def introduce(self) -> None:
        """Configure Cinder for it, without a Keystone."""
        group = cinder_nova.NOVA_GROUP
        cfg.CONF.set_override('auth_type', 'none', group)
        cinder_nova.ks_loading.register_auth_conf_options(cfg.CONF, group)
        cfg.CONF.register_opts(
            cinder_nova.ks_loading.get_auth_plugin_conf_options('none'),
            group)
        cfg.CONF.set_override('endpoint', self.url, group)

    def host(self, one: InUse) -> None:
        """Take a guest for one of its servers."""
        self.servers[one.guest.uuid] = Server(
            one.guest, {one.volume.id: one.disk},
            bdm={one.volume.id: one.attachment.connection_info})

    def stop(self) -> None:
        """Be away; what was accepted goes on."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def settle(self) -> None:
        """Wait until everything that was accepted has ended."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), 'Nova is still at work'
        self._threads.clear()

    def report(self, snapshot_id: str, status: str,
               progress: str = '90%') -> int:
        """Tell Cinder's API a status, as anybody in a project can."""
        request = wsgi.Request.blank('/')
        request.environ['cinder.context'] = context.RequestContext(
            'user', 'project', is_admin=True, overwrite=False)
        request.api_version_request = (
            api_version_request.max_api_version())
        controller = snapshot_actions.SnapshotActionsController()
        try:
            code = controller._update_snapshot_status(
                req=request, id=snapshot_id, body={
                    'os-update_snapshot_status': {
                        'status': status, 'progress': progress}}).status_int
        except Exception as exc:  # upstream only logs it
            code = getattr(exc, 'code', 500)
        self.reports.append((snapshot_id, status, int(code)))
        return int(code)

    # What nova-compute does ----------------------------------------------

    def accept(self, kind: str, volume_id: str, snapshot_id: str,
               info: dict[str, Any]) -> int:
        """Take a request as nova-api does; the HTTP status."""
        self.requests.append((kind, {'volume_id': volume_id,
                                     'snapshot_id': snapshot_id, **info}))
        if self.behaviour.refuse:
            return self.behaviour.refuse
        for server in self.servers.values():
            if volume_id in server.volumes:
                break
        else:
            return 400  # VolumeBDMNotFound
        commit = info.get('merge_target_file') is not None
        if server.task_state or (kind == 'delete' and commit
                                 and server.state() != 'active'):
            return 400  # InstanceInvalidState
        work = self._create if kind == 'create' else self._delete
        thread = threading.Thread(
            target=work, args=(server, volume_id, snapshot_id, info,
                               self.behaviour), daemon=True)
        self._threads.append(thread)
        thread.start()
        return 200 if kind == 'create' else 204

    def _create(self, server: Server, volume_id: str, snapshot_id: str,
                info: dict[str, Any], how: Behaviour) -> None:
        status = 'creating'
        try:
            how.before()
            if how.work:
                old = _disk(server.guest, volume_id)[1]
                server.guest.domain.snapshotCreateXML(_SNAPSHOT.format(
                    old=old, new=Path(old).with_name(info['new_file'])),
                    _CREATE)
        except Exception:
            status = 'error'
        self._tell(snapshot_id, status, how)
        if status == 'creating':
            self._refresh_when_done(server, volume_id, snapshot_id)

    def _refresh_when_done(self, server: Server, volume_id: str,
                           snapshot_id: str) -> None:
        while True:
            try:
                row = objects.Snapshot.get_by_id(
                    context.get_admin_context(), snapshot_id)
            except Exception:  # upstream's loop ends so, too
                return
            if row.status != 'creating':
                break
            time.sleep(_POLL)
        self._refresh(server, volume_id)

    def _refresh(self, server: Server, volume_id: str) -> None:
        for attachment in objects.VolumeAttachmentList.get_all_by_volume_id(
                context.get_admin_context(), volume_id):
            server.bdm[volume_id] = attachment.connection_info

    def _delete(self, server: Server, volume_id: str, snapshot_id: str,
                info: dict[str, Any], how: Behaviour) -> None:
        status = 'deleting'
        try:
            how.before()
            if how.work:
                _merge(server.guest, volume_id, info, how.bandwidth)
        except Exception:
            status = 'error_deleting'
        self._tell(snapshot_id, status, how)
        self._refresh(server, volume_id)

    def _tell(self, snapshot_id: str, status: str, how: Behaviour) -> None:
        said = status if how.word is None else how.word
        if said:
            self.report(snapshot_id, said)


def _disk(guest: Guest, volume_id: str) -> tuple[str, str]:
    """Device and active file of a volume in a guest."""
    root = ET.fromstring(guest.domain.XMLDesc())  # noqa: S314
    for disk in root.iterfind('devices/disk'):
        source, target = disk.find('source'), disk.find('target')
        if disk.findtext('serial') == volume_id and (
                source is not None and target is not None):
            return str(target.get('dev')), str(source.get('file'))
    raise LookupError(volume_id)


def _merge(guest: Guest, volume_id: str, info: dict[str, Any],
           bandwidth: int) -> None:
    domain = guest.domain
    device = _disk(guest, volume_id)[0]
    if info['merge_target_file'] is None:
        base = info['file_to_merge']
        flags = libvirt.VIR_DOMAIN_BLOCK_REBASE_RELATIVE if base else 0
        domain.blockRebase(device, base, bandwidth, flags)
    else:
        domain.blockCommit(device, info['merge_target_file'],
                           info['file_to_merge'], bandwidth,
                           libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE)
    while domain.blockJobInfo(device, 0):  # none: upstream calls it done
        time.sleep(_POLL)


class _Listener:
    """Takes connections, and answers each in a native thread.

    Once Cinder is imported, the standard library's servers are eventlet's.
    """

    def __init__(self, port: int, handler: type[_Handler]) -> None:
        self._socket = socket.create_server(('127.0.0.1', port))
        self.port = self._socket.getsockname()[1]
        self._handler = handler
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._answer, args=(connection,),
                             daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            self._handler(connection, None, None)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    """The four calls that Cinder makes."""

    nova: Nova

    def do_GET(self) -> None:
        server_id = parse.urlparse(self.path).path.rsplit('/', 1)[-1]
        server = self.nova.servers.get(server_id)
        if server is None:
            self._answer(404, {'itemNotFound': {'message': 'no server',
                                                'code': 404}})
            return
        self._answer(200, {'server': {
            'id': server_id, 'status': 'ANY',
            'OS-EXT-STS:vm_state': server.state(),
            'OS-EXT-STS:task_state': server.task_state}})

    def do_POST(self) -> None:
        length = int(self.headers['Content-Length'])
        found = json.loads(self.rfile.read(length))
        if 'events' in found:
            events = [{**one, 'code': 200} for one in found['events']]
            self.nova.requests.extend(('event', one) for one in events)
            self._answer(200, {'events': events})
            return
        body = found['snapshot']
        info = body['create_info']
        assert set(info) == {'snapshot_id', 'type', 'new_file'}, info
        self._did(self.nova.accept('create', body['volume_id'],
                                   info['snapshot_id'], info),
                  {'snapshot': {'id': None, 'volumeId': body['volume_id']}})

    def do_DELETE(self) -> None:
        url = parse.urlparse(self.path)
        info = json.loads(parse.parse_qs(url.query)['delete_info'][0])
        self._did(self.nova.accept('delete', info.pop('volume_id'),
                                   url.path.rsplit('/', 1)[-1], info), None)

    def _did(self, code: int, body: Any) -> None:
        if code >= 400:
            body = {'badRequest': {'message': 'the server is busy',
                                   'code': code}}
        self._answer(code, body)

    def _answer(self, code: int, body: Any) -> None:
        content = b'' if body is None else json.dumps(body).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
