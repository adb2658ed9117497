# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes: Nova leaves their layers alone, and names them all."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

from assisted_snapshots.nova_hooks import guard
from assisted_snapshots.nova_hooks.definition import repointed
from assisted_snapshots.nova_hooks.definition import Source

KEY = '5ca1ab1e' * 8
# As in test_compat, Nova needs a process of its own.  What stands in is the
# host's libvirt; any command of os-brick's fails for want of a PATH.
_ATTACH = """
import os
import sys
from nova import context
import nova.conf
from assisted_snapshots.nova_hooks.driver import AssistedLibvirtDriver

os.environ['PATH'] = ''

class Host:
    secrets = {}

    def find_secret(self, kind, volume):
        return self.secrets.get(volume)

    def create_secret(self, kind, volume, password):
        self.secrets[volume] = password

    def delete_secret(self, kind, volume):
        del self.secrets[volume]

for name, value in (('backend', 'nova.keymgr.conf_key_mgr.ConfKeyManager'),
                    ('fixed_key', sys.argv[1])):
    nova.conf.CONF.set_override(name, value, 'key_manager')
driver = object.__new__(AssistedLibvirtDriver)
driver._host = Host()
admin = context.get_admin_context()
info = {'driver_volume_type': 'nfs', 'serial': 'one', 'data': {
    'export': '', 'name': 'volume-one', 'encrypted': True,
    'device_path': sys.argv[2]}}
spec = {'provider': 'luks', 'cipher': 'aes-xts-plain64', 'key_size': 256,
        'encryption_key_id': '00000000-0000-0000-0000-000000000000'}
driver._attach_encryptor(admin, info, spec)
print(driver._host.secrets['one'])
assert 'device_path' in info['data']
driver._detach_encryptor(admin, info, spec)
driver._detach_encryptor(admin, info, spec)
print(driver._host.secrets)
"""
XML = """
<domain><devices><disk type='file'>
  <driver type='qcow2'/>
  <source file='/mnt/volume-1'>{inside}</source>
  <serial>1</serial>{beside}
</disk></devices></domain>
"""
SECRET = ('<encryption format="luks"><secret type="passphrase" uuid="u" />'
          '</encryption>')
CHAIN = (Source(Path('/mnt/volume-1.s1'), 'qcow2'),
         Source(Path('/mnt/volume-1'), 'raw'))
NAMED = ('<backingStore type="file"><format type="qcow2" />'
         f'<source file="/mnt/volume-1.s1">{SECRET}</source>'
         '<backingStore type="file"><format type="raw" />'
         f'<source file="/mnt/volume-1">{SECRET}</source>'
         '<backingStore /></backingStore></backingStore>')


def test_nova_gives_a_secret_and_no_more(tmp_path: Path) -> None:
    """It would take qcow2 for a device that has not been formatted yet."""
    layer = tmp_path / 'volume-one'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', layer, '1M'],
                   check=True)
    before = layer.read_bytes()
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _ATTACH, KEY, str(layer)],
        check=True, capture_output=True, text=True)
    assert done.stdout.split() == [KEY, '{}']
    assert layer.read_bytes() == before


def test_layers_get_the_passphrase() -> None:
    """Wherever the definition has it."""
    active = {'1': Source(Path('volume-1.s2'), 'qcow2', below=CHAIN)}
    for places in ({'inside': SECRET, 'beside': ''},
                   {'inside': '', 'beside': SECRET}):
        assert NAMED in repointed(XML.format(**places), active)
    plain = repointed(XML.format(inside='', beside=''), active)
    assert 'backingStore' not in plain


def test_the_layers_below(tmp_path: Path) -> None:
    """As the headers say; the nearest first."""
    for name, *backing in (('base',), ('one', '-b', 'base', '-F', 'raw'),
                           ('two', '-b', 'one', '-F', 'qcow2')):
        subprocess.run(
            ['qemu-img', 'create', '-q', '-f', 'qcow2' if backing else 'raw',
             *backing, name, '1M'], cwd=tmp_path, check=True)
    base = Source(tmp_path / 'base', 'raw')
    assert guard.below(tmp_path / 'one') == (base,)
    assert guard.below(tmp_path / 'two') == (
        Source(tmp_path / 'one', 'qcow2'), base)
    (tmp_path / 'one').unlink()
    assert guard.below(tmp_path / 'two') == ()
