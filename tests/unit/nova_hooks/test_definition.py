# SPDX-License-Identifier: Apache-2.0
"""Definitions of domains: read, and given other layers."""

from __future__ import annotations

from pathlib import Path

from assisted_snapshots.nova_hooks.definition import repointed
from assisted_snapshots.nova_hooks.definition import Source
from assisted_snapshots.nova_hooks.definition import sources

XML = """
<domain type='kvm'><name>one</name><devices>
  <disk type='file' device='disk'>
    <driver name='qemu' type='qcow2' cache='none'/>
    <source file='/instances/one/disk'/>
    <target dev='vda'/>
  </disk>
  <disk type='file' device='disk'>
    <driver name='qemu' type='qcow2' cache='none'/>
    <source file='/mnt/a/volume-1.s1' index='3'/>
    <backingStore type='file' index='4'>
      <format type='raw'/><source file='/mnt/a/volume-1'/><backingStore/>
    </backingStore>
    <mirror type='file' job='active-commit'><source file='x'/></mirror>
    <target dev='vdb'/><serial>1</serial>
  </disk>
  <disk type='file' device='disk'>
    <driver name='qemu' type='raw'/>
    <source file='/mnt/a/volume-2'/>
    <backingStore/>
    <target dev='vdc'/><serial>2</serial>
  </disk>
  <disk type='network' device='disk'>
    <source protocol='rbd' name='pool/volume-3'/>
    <target dev='vdd'/><serial>3</serial>
  </disk>
</devices></domain>
"""
ONE = Source(Path('/mnt/a/volume-1.s1'), 'qcow2', 'vdb')
TWO = Source(Path('/mnt/a/volume-2'), 'raw', 'vdc')


def test_sources() -> None:
    """Files with a serial: that is what Nova gives to volumes."""
    assert sources(XML) == {'1': ONE, '2': TWO}


def test_repointed() -> None:
    """Name and format change, the folder stays, what was below is gone."""
    found = repointed(XML, {'1': Source(Path('/else/volume-1'), 'raw'),
                            '3': Source(Path('/else/volume-3'), 'raw')})
    assert sources(found) == {
        '1': Source(Path('/mnt/a/volume-1'), 'raw', 'vdb'), '2': TWO}
    assert 'mirror' not in found
    assert found.count('backingStore') == XML.count('<backingStore/>') - 1
    assert 'pool/volume-3' in found


def test_an_unknown_format() -> None:
    """It stays what it was."""
    found = repointed(XML, {'1': Source(Path('volume-1.s2'), '')})
    assert sources(found)['1'] == Source(Path('/mnt/a/volume-1.s2'),
                                         'qcow2', 'vdb')
