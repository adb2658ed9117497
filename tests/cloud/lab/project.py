# SPDX-License-Identifier: Apache-2.0
"""What a user of the cloud does, each as one call that waits for its end."""

from __future__ import annotations

from collections.abc import Callable
import re
from typing import Any

from tests.cloud.lab.api import Answer
from tests.cloud.lab.api import Api
from tests.cloud.lab.api import NotFound
from tests.cloud.lab.api import Service
from tests.functional.lab import guest_image
from tests.functional.lab import waiting

#: Of one operation; the machine may be busy.
DEADLINE = 240
FLAVOR_MEMORY = 192
#: The root disk is not used; the guest lives in its memory.
ROOT_SIZE = 1 << 20
#: Name of the volume type with encryption.
LUKS = 'luks'


class WentWrong(AssertionError):
    """Something reached a state from which it does not come back."""

    message = '{what} is {status}: {facts}'

    def __init__(self, what: str, status: str, facts: Answer) -> None:
        super().__init__(self.message.format(what=what, status=status,
                                             facts=facts))


class Project:
    """One user's view of the cloud."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def volume(self, size: int = 1, **source: str) -> str:
        """Make a volume of so many GiB; its id.

        :param source: ``snapshot_id``, ``source_volid``, ``volume_type``.
        """
        made = self.api.volume.post('/volumes', {'volume': {
            'size': size, **source}})['volume']['id']
        self.volume_becomes(made, 'available')
        return str(made)

    def encrypted_type(self) -> str:
        """A volume type with LUKS, made once; its name."""
        if LUKS not in self._named(self.api.volume, '/types',
                                   'volume_types'):
            made = self.api.volume.post('/types', {
                'volume_type': {'name': LUKS}})['volume_type']['id']
            self.api.volume.post(f'/types/{made}/encryption', {'encryption': {
                'provider': 'luks', 'cipher': 'aes-xts-plain64',
                'key_size': 256, 'control_location': 'front-end'}})
        return LUKS

    def volume_becomes(self, volume: str, status: str) -> Answer:
        """Wait for a volume's status; the volume."""
        return self._becomes(self.api.volume, 'volume', volume, status)

    def delete_volume(self, volume: str, query: str = '') -> None:
        """Delete a volume."""
        self.api.volume.delete(f'/volumes/{volume}{query}')
        self._goes(self.api.volume, 'volume', volume)

    def request_snapshot(self, volume: str) -> str:
        """Ask for a snapshot, also of a volume in use; its id."""
        return str(self.api.volume.post('/snapshots', {'snapshot': {
            'volume_id': volume}})['snapshot']['id'])

    def snapshot(self, volume: str) -> str:
        """Take a snapshot; its id."""
        made = self.request_snapshot(volume)
        self.snapshot_becomes(made, 'available')
        return made

    def snapshot_becomes(self, snapshot: str, status: str) -> Answer:
        """Wait for a snapshot's status; the snapshot."""
        return self._becomes(self.api.volume, 'snapshot', snapshot, status)

    def request_deletion(self, snapshot: str) -> None:
        """Ask for the deletion of a snapshot."""
        self.api.volume.delete(f'/snapshots/{snapshot}')

    def delete_snapshot(self, snapshot: str) -> None:
        """Delete a snapshot."""
        self.request_deletion(snapshot)
        self.snapshot_goes(snapshot)

    def snapshot_goes(self, snapshot: str) -> None:
        """Wait for the end of a deletion that was asked for."""
        self._goes(self.api.volume, 'snapshot', snapshot)

    def messages(self, snapshot: str) -> list[str]:
        """What Cinder tells the user about a snapshot."""
        found = self.api.volume.get('/messages')['messages']
        return [one['user_message'] for one in found
                if one['resource_uuid'] == snapshot]

    def attachment(self, volume: str) -> Answer:
        """A volume's only attachment."""
        found = self.api.volume.get(f'/attachments?volume_id={volume}')
        (one,) = found['attachments']
        answer = self.api.volume.get(f'/attachments/{one["id"]}')
        return dict(answer['attachment'])

    def server(self, name: str, host: str, *volumes: str) -> str:
        """Boot a server on a host; its id.

        :param volumes: attached to it from the beginning.
        """
        image = self.image()
        disks = [{'boot_index': 0, 'uuid': image, 'source_type': 'image',
                  'destination_type': 'local'},
                 *({'uuid': volume, 'source_type': 'volume',
                    'destination_type': 'volume'} for volume in volumes)]
        made = self.api.compute.post('/servers', {'server': {
            'name': name, 'imageRef': image,
            'flavorRef': self.flavor(), 'networks': 'none',
            'block_device_mapping_v2': disks,
            'availability_zone': f'nova:{host}'}})['server']['id']
        self.server_becomes(made, 'ACTIVE')
        return str(made)

    def server_becomes(self, server: str, status: str) -> Answer:
        """Wait until a server has a status and nothing to do."""
        return self._becomes(
            self.api.compute, 'server', server, status,
            lambda it: it['OS-EXT-STS:task_state'] is None)

    def act(self, server: str, status: str, **action: Any) -> Answer:
        """Let a server do something, until it has a status."""
        self.api.compute.post(f'/servers/{server}/action', action)
        return self.server_becomes(server, status)

    def migrate_live(self, server: str, host: str) -> None:
        """Move a running server to another host."""
        self.api.compute.post(f'/servers/{server}/action', {
            'os-migrateLive': {'host': host, 'block_migration': 'auto'}})
        moved = self.server_becomes(server, 'ACTIVE')
        found = moved['OS-EXT-SRV-ATTR:host']
        if found != host:
            raise WentWrong(f'server {server}', f'still on {found}', moved)

    def delete_server(self, server: str) -> None:
        """Delete a server."""
        self.api.compute.delete(f'/servers/{server}')
        self._goes(self.api.compute, 'server', server)

    def request_attachment(self, server: str, volume: str) -> None:
        """Ask for a volume to be attached; it is reserved then."""
        self.api.compute.post(f'/servers/{server}/os-volume_attachments', {
            'volumeAttachment': {'volumeId': volume}})

    def attach(self, server: str, volume: str) -> None:
        """Attach a volume."""
        self.request_attachment(server, volume)
        self.volume_becomes(volume, 'in-use')

    def detach(self, server: str, volume: str) -> None:
        """Detach a volume."""
        self.api.compute.delete(
            f'/servers/{server}/os-volume_attachments/{volume}')
        self.volume_becomes(volume, 'available')

    def image(self) -> str:
        """The laboratory's guest, uploaded once."""
        known = self._named(self.api.image, '/v2/images', 'images')
        if 'guest' in known:
            return known['guest']
        guest = guest_image.build()
        kvm = guest_image.accelerator(guest) == 'kvm'
        return self._upload(
            'guest', 'raw', bytes(ROOT_SIZE),
            kernel_id=self._upload('kernel', 'aki',
                                   guest.kernel.read_bytes()),
            ramdisk_id=self._upload('initramfs', 'ari',
                                    guest.initramfs.read_bytes()),
            os_command_line=guest_image.CMDLINE if kvm
            else guest_image.TCG_CMDLINE,
            hw_disk_bus='virtio', hw_qemu_guest_agent='yes')

    def rescue_image(self) -> str:
        """One that servers are rescued with beside all of their disks."""
        known = self._named(self.api.image, '/v2/images', 'images')
        return known.get('rescue') or self._upload(
            'rescue', 'raw', bytes(ROOT_SIZE), hw_rescue_device='disk',
            hw_rescue_bus='virtio')

    def flavor(self) -> str:
        """A flavor that is large enough for the guest, made once."""
        known = self._named(self.api.compute, '/flavors', 'flavors')
        if 'tiny' not in known:
            made = self.api.compute.post('/flavors', {'flavor': {
                'name': 'tiny', 'ram': FLAVOR_MEMORY, 'vcpus': 1,
                'disk': 0}})
            return str(made['flavor']['id'])
        return known['tiny']

    def _upload(self, name: str, kind: str, data: bytes,
                **properties: str) -> str:
        image = str(self.api.image.post('/v2/images', {
            'name': name, 'disk_format': kind, 'visibility': 'public',
            'container_format': 'bare' if kind == 'raw' else kind,
            **properties})['id'])
        self.api.image.upload(f'/v2/images/{image}/file', data)
        return image

    def _named(self, service: Service, path: str, kind: str
               ) -> dict[str, str]:
        return {one['name']: one['id'] for one in service.get(path)[kind]}

    def _becomes(self, service: Service, kind: str, key: str, status: str,
                 also: Callable[[Answer], bool] = lambda _: True) -> Answer:
        def reached() -> Answer | None:
            found: Answer = service.get(f'/{kind}s/{key}')[kind]
            if found['status'] == status and also(found):
                return found
            if re.match('error', found['status'], re.IGNORECASE):
                raise WentWrong(f'{kind} {key}', found['status'], found)
            return None
        return waiting.until(reached, f'{kind} {key} being {status}',
                             DEADLINE, 0.2)

    def _goes(self, service: Service, kind: str, key: str) -> None:
        def gone() -> bool:
            try:
                found: Answer = service.get(f'/{kind}s/{key}')[kind]
            except NotFound:
                return True
            if not re.match('delet|active|shutoff|in-use|available$',
                            found['status'], re.IGNORECASE):
                raise WentWrong(f'{kind} {key}', found['status'], found)
            if kind == 'snapshot' and found['status'] == 'available':
                raise WentWrong(f'{kind} {key}', found['status'], found)
            return False
        waiting.until(gone, f'end of {kind} {key}', DEADLINE, 0.2)
