# SPDX-License-Identifier: Apache-2.0
"""What must be flushed, and what counts as seen on disk."""

from __future__ import annotations

from pathlib import Path
import subprocess

import pytest

from assisted_snapshots.agent.durability import nodes_to_flush
from assisted_snapshots.agent.durability import unproven
from assisted_snapshots.agent.xml import DiskLayer
from assisted_snapshots.chain.errors import BadLayer

# As QEMU 10.0 under libvirt 11.3 shows them; raw has no node of its own.
NODES = (
    {'node-name': 'libvirt-4-format', 'drv': 'qcow2', 'ro': False,
     'file': 'json:{"driver": "qcow2", "file": {"driver": "file"...'},
    {'node-name': 'libvirt-4-storage', 'drv': 'file', 'ro': False,
     'file': '/srv/share/v.s2'},
    {'node-name': 'libvirt-3-format', 'drv': 'qcow2', 'ro': True,
     'file': 'json:{...'},
    {'node-name': 'libvirt-3-storage', 'drv': 'file', 'ro': False,
     'file': '/srv/share/v.s1'},
    {'node-name': 'libvirt-2-storage', 'drv': 'file', 'ro': True,
     'file': '/srv/share/v'})


@pytest.mark.parametrize(('index', 'names'), [
    ('4', ['libvirt-4-format']),
    ('3', ['libvirt-3-format']),
    ('2', ['libvirt-2-storage']),
    ('9', ['libvirt-4-format']),
    ('', ['libvirt-4-format'])])
def test_node_of_a_layer(index: str, names: list[str]) -> None:
    layer = DiskLayer('/srv/share/x', 'qcow2', index)
    assert nodes_to_flush(NODES, layer) == names


def tool(folder: Path, *argv: str) -> None:
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A raw base with 64 KiB at 0, an overlay with 64 KiB at 1 MiB."""
    tool(tmp_path, 'qemu-img', 'create', '-f', 'raw', 'v', '4M')
    tool(tmp_path, 'qemu-io', '-f', 'raw', '-c', 'write 0 64k', 'v')
    tool(tmp_path, 'qemu-img', 'create', '-f', 'qcow2', '-b', 'v', '-F',
         'raw', 'v.s1')
    tool(tmp_path, 'qemu-io', '-c', 'write 1M 64k', 'v.s1')
    tool(tmp_path, 'qemu-img', 'create', '-f', 'qcow2', '-b', 'v.s1', '-F',
         'qcow2', 'v.s2')
    return tmp_path


FORMATS = {'v': 'raw', 'v.s1': 'qcow2', 'v.s2': 'qcow2'}


def test_missing_data_are_named(chain: Path) -> None:
    found = unproven(chain, 'v.s2', ['v.s1'], FORMATS)
    assert found == '65536 bytes at 1048576 of v.s1 are not mapped in v.s2'


def test_zeroes_written_over_data_are_proof(chain: Path) -> None:
    tool(chain, 'qemu-io', '-c', 'write -z 1M 64k', 'v.s2')
    assert unproven(chain, 'v.s2', ['v.s1'], FORMATS) == ''


def test_zeroes_of_a_removed_layer_hide_what_is_below(chain: Path) -> None:
    tool(chain, 'qemu-img', 'create', '-f', 'qcow2', '-b', 'v', '-F', 'raw',
         'v.s1')
    tool(chain, 'qemu-io', '-c', 'write -z 0 64k', 'v.s1')
    tool(chain, 'qemu-img', 'rebase', '-u', '-b', 'v', '-F', 'raw', 'v.s2')
    found = unproven(chain, 'v.s2', ['v.s1'], FORMATS)
    assert found == '65536 bytes at 0 of v.s1 are not mapped in v.s2'
    tool(chain, 'qemu-io', '-c', 'write -z 0 64k', 'v.s2')
    assert unproven(chain, 'v.s2', ['v.s1'], FORMATS) == ''


def test_zeroes_over_nothing_need_no_proof(chain: Path) -> None:
    tool(chain, 'qemu-img', 'create', '-f', 'qcow2', 'v.s1', '4M')
    tool(chain, 'qemu-io', '-c', 'write -z 0 64k', 'v.s1')
    tool(chain, 'qemu-img', 'rebase', '-u', '-b', '', 'v.s2')
    assert unproven(chain, 'v.s2', ['v.s1'], FORMATS) == ''


def test_every_removed_layer_counts(chain: Path) -> None:
    tool(chain, 'qemu-io', '-c', 'write 1M 64k', 'v.s2')
    assert unproven(chain, 'v.s2', ['v.s1'], FORMATS) == ''
    assert 'of v ' in unproven(chain, 'v.s2', ['v.s1', 'v'], FORMATS)
    tool(chain, 'qemu-io', '-c', 'write 0 64k', 'v.s2')
    assert unproven(chain, 'v.s2', ['v.s1', 'v'], FORMATS) == ''


def test_raw_survivor_has_no_table(chain: Path) -> None:
    assert unproven(chain, 'v', ['v.s1'], FORMATS) == ''


def test_layer_judged_before_is_passed_over(chain: Path) -> None:
    (chain / 'v.s1').unlink()
    assert unproven(chain, 'v.s2', ['v.s1'], FORMATS) == ''
    assert unproven(chain, 'v.s2', ['v'], {'v.s2': 'qcow2'}) == ''


def test_survivor_must_be_there(chain: Path) -> None:
    (chain / 'v.s2').unlink()
    with pytest.raises(BadLayer):
        unproven(chain, 'v.s2', ['v.s1'], FORMATS)
