# SPDX-License-Identifier: Apache-2.0
"""libvirt's own XML (11.3.0), recorded, and the XML that goes to it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
import pytest

from assisted_snapshots.agent import xml
from assisted_snapshots.agent.xml import Mirror

RECORDED = Path(__file__).parent / 'recorded'
CHAIN = ('volume-a', 'volume-a.s1', 'volume-a.s2')


def recorded(name: str) -> xml.Domain:
    return xml.parse_domain((RECORDED / f'{name}.xml').read_text())


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314  our own


def test_running_guest() -> None:
    domain = recorded('running')
    assert (domain.name, domain.id, domain.guest_agent) == ('p1', 2, '')
    first, second = domain.disks
    assert (first.device, first.serial, first.kind) == ('vda', 'a', 'file')
    assert first.names == CHAIN
    assert [n.format for n in first.layers] == ['raw', 'qcow2', 'qcow2']
    assert [n.index for n in first.layers] == ['2', '3', '4']
    assert first.folder == '/srv/share'
    assert (first.mirror, first.secret) == (None, '')
    assert second.names == ('volume-b',)
    assert domain.by_serial('a') == (first,)
    assert domain.by_serial('c') == ()


def test_layers_are_addressed_by_index() -> None:
    disk = recorded('running').disks[0]
    assert [disk.address(n) for n in CHAIN] == ['vda[2]', 'vda[3]', 'vda']


@pytest.mark.parametrize(('name', 'mirror'), [
    ('running', None),
    ('committing', None),
    ('active-committing', Mirror('active-commit', '')),
    ('active-ready', Mirror('active-commit', 'yes'))])
def test_mirror(name: str, mirror: Mirror | None) -> None:
    assert recorded(name).disks[0].mirror == mirror


def test_encrypted_guest_with_an_agent() -> None:
    domain = recorded('encrypted')
    assert domain.guest_agent == 'connected'
    assert domain.confinement == {'dac'}
    disk = domain.disks[0]
    assert len(disk.layers) == 6
    assert disk.secret == 'e5c482e4-c856-41a4-a1b5-b36c2ff0ddbb'


def test_guest_that_is_off_shows_only_what_is_defined() -> None:
    domain = recorded('encrypted-off')
    assert domain.id == xml.SHUT_OFF
    disk = domain.disks[0]
    assert disk.active.name.endswith('.s6')
    assert disk.active.index == ''


@pytest.mark.parametrize(('label', 'found'), [
    ("<seclabel type='dynamic' model='apparmor' relabel='yes'/>",
     {'apparmor'}),
    ("<seclabel type='dynamic' model='apparmor'/>", {'apparmor'}),
    ("<seclabel type='static' model='apparmor' relabel='no'/>", set()),
    ("<seclabel type='none' model='apparmor'/>", set()),
    ("<seclabel type='dynamic' model='dac' relabel='yes'/>"
     "<seclabel type='dynamic' model='apparmor' relabel='yes'/>",
     {'dac', 'apparmor'}),
    ('', set())])
def test_confinement(label: str, found: set[str]) -> None:
    domain = xml.parse_domain(
        f"<domain id='1'><name>x</name><uuid>u</uuid>{label}</domain>")
    assert domain.confinement == found


@pytest.mark.parametrize(('disk', 'kind', 'path'), [
    ("<disk type='network'><source protocol='rbd' name='p/v'/>"
     "<target dev='vda'/></disk>", 'network', ''),
    ("<disk type='file' device='cdrom'><target dev='sda'/><readonly/>"
     '</disk>', 'file', ''),
    ("<disk type='block'><source dev='/dev/x'/><target dev='vdb'/>"
     '<shareable/></disk>', 'block', '')])
def test_other_disks(disk: str, kind: str, path: str) -> None:
    domain = xml.parse_domain('<domain><devices>' + disk
                              + '</devices></domain>')
    found = domain.disks[0]
    assert (found.kind, found.active.path) == (kind, path)
    assert found.readonly == ('readonly' in disk)
    assert found.shareable == ('shareable' in disk)


def test_snapshot_names_every_disk() -> None:
    text = xml.snapshot_xml(recorded('running'),
                            {'vda': ('/srv/share/volume-a.s3', '')})
    disks = parsed(text).findall('disks/disk')
    assert [(d.get('name'), d.get('snapshot')) for d in disks] == [
        ('vda', 'external'), ('vdb', 'no')]
    driver = disks[0].find('driver')
    source = disks[0].find('source')
    assert driver is not None and driver.attrib == {'type': 'qcow2'}
    assert source is not None
    assert source.attrib == {'file': '/srv/share/volume-a.s3'}
    assert not list(source)


def test_snapshot_of_an_encrypted_disk_carries_the_secret() -> None:
    text = xml.snapshot_xml(recorded('encrypted'), {'vda': ('/f', 'uuid-1')})
    secret = parsed(text).find('.//source/encryption/secret')
    assert secret is not None
    assert secret.attrib == {'type': 'passphrase', 'uuid': 'uuid-1'}


@given(st.text(st.characters(min_codepoint=32, exclude_characters='\x7f',
                             exclude_categories=('Cs', 'Cn', 'Co', 'Cc'))))
def test_no_name_becomes_markup(name: str) -> None:
    text = xml.snapshot_xml(recorded('running'), {'vda': (name, name)})
    root = parsed(text)
    source = root.find('.//source')
    assert source is not None and source.get('file') == name
    assert len(root.findall('.//source')) == 1


def test_definition_is_moved_to_another_image() -> None:
    text = (RECORDED / 'running.xml').read_text()
    moved = xml.parse_domain(xml.with_source(text, 'vda',
                                             '/srv/share/volume-a', 'raw'))
    before = xml.parse_domain(text)
    assert moved.disks[0].names == ('volume-a',)
    assert moved.disks[0].active.format == 'raw'
    assert moved.disks[1] == before.disks[1]


def test_definition_keeps_the_secret_of_its_disk() -> None:
    text = (RECORDED / 'encrypted-off.xml').read_text()
    moved = xml.parse_domain(xml.with_source(text, 'vda', '/srv/share/v',
                                             'qcow2'))
    assert moved.disks[0].secret == xml.parse_domain(text).disks[0].secret
