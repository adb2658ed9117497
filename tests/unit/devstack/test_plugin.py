# SPDX-License-Identifier: Apache-2.0
"""The DevStack plugin, phase by phase, on what DevStack documents.

Every phase runs twice: the second run must change nothing.
"""

from __future__ import annotations

import configparser
import grp
from pathlib import Path
import re
import stat
import subprocess
import sys

import pytest
import yaml

from assisted_snapshots.agent import conf as agent_conf

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = ROOT / 'devstack'
HERE = Path(__file__).parent
PHASES = ('pre-install', 'install', 'post-config', 'extra', 'test-config')
ALL = 'c-vol c-api n-cpu n-api tempest'

# Programs that would change the machine: they note how they were called.
_NOTED = ('exportfs', 'systemctl', 'groupadd', 'groupdel', 'usermod')
_NOTE = '#!/bin/sh\necho "${0##*/} $*" >>"$ROOT/calls"\n'


class DevStack:
    """A machine on which the plugin's phases are run."""

    def __init__(self, root: Path, services: str = ALL,
                 **settings: str) -> None:
        self.root = root
        (root / 'bin').mkdir()
        for name in _NOTED:
            self._program(name, _NOTE)
        self._program('sudo', '#!/bin/sh\nexec "$@"\n')
        group = grp.getgrgid(0).gr_name
        self.environment = {
            'ROOT': str(root), 'PLUGIN': str(PLUGIN), 'SERVICES': services,
            'PATH': f'{root}/bin:{Path(sys.executable).parent}:'
                    f'/usr/sbin:/usr/bin:/sbin:/bin',
            'ASSISTED_CONF_DIR': f'{root}/etc',
            'ASSISTED_EXPORTS': f'{root}/exports.d/ours.exports',
            'ASSISTED_GROUP': group,
            'ASSISTED_QEMU_USER': 'root', **settings}

    def run(self, *phase: str) -> list[str]:
        """Run a phase twice; what the first run called."""
        first = self._run(phase)
        before = self.files()
        again = self._run(phase)
        assert again == first or phase[0] != 'stack'
        assert self.files() == before
        return first

    def stack(self) -> None:
        """Run all phases of stack.sh."""
        for phase in PHASES:
            self.run('stack', phase)

    def files(self) -> dict[str, bytes | int]:
        """Content of every file, mode of every folder."""
        return {str(p.relative_to(self.root)):
                stat.S_IMODE(p.stat().st_mode) if p.is_dir()
                else p.read_bytes()
                for p in sorted(self.root.rglob('*')) if p.name != 'calls'}

    def ini(self, path: str) -> configparser.RawConfigParser:
        """A configuration file."""
        parser = configparser.RawConfigParser(default_section='')
        assert parser.read(self.root / path)
        return parser

    def _run(self, phase: tuple[str, ...]) -> list[str]:
        calls = self.root / 'calls'
        calls.write_text('')
        done = subprocess.run(
            ['bash', HERE / 'harness.sh', *phase], env=self.environment,
            capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [line for line in calls.read_text().splitlines()
                if not line.startswith('define_plugin')]

    def _program(self, name: str, text: str) -> None:
        path = self.root / 'bin' / name
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def devstack(tmp_path: Path) -> DevStack:
    """One machine with everything on it."""
    return DevStack(tmp_path)


def test_pre_install(devstack: DevStack, tmp_path: Path) -> None:
    """A server where the share is, a client everywhere."""
    assert devstack.run('stack', 'pre-install') == [
        'install_package nfs-common nfs-kernel-server']
    (tmp_path / 'other').mkdir()
    compute = DevStack(tmp_path / 'other', 'n-cpu')
    assert compute.run('stack', 'pre-install') == [
        'install_package nfs-common']
    compute.environment['DISTRO'] = 'fedora'
    assert compute.run('stack', 'pre-install') == [
        'install_package nfs-utils']


def test_install(devstack: DevStack) -> None:
    """The project with what it stands on, a share, its export."""
    calls = devstack.run('stack', 'install')
    root = devstack.root
    assert calls[0] == (
        f'setup_develop {root}/dest/assisted-snapshots cinder,nova')
    assert calls[-1] == 'exportfs -ra'
    assert any(c.startswith('usermod -a -G') for c in calls)
    share = root / 'data' / 'assisted-share'
    assert stat.S_IMODE(share.stat().st_mode) == 0o2770
    assert (root / 'exports.d' / 'ours.exports').read_text() == (
        f'{share} *(rw,sync,no_subtree_check,root_squash)\n')


def test_insecure(tmp_path: Path) -> None:
    """As DevStack's own backend, if that is asked for."""
    devstack = DevStack(tmp_path, ASSISTED_SECURE='False')
    devstack.run('stack', 'install')
    devstack.run('stack', 'post-config')
    exports = (tmp_path / 'exports.d' / 'ours.exports').read_text()
    assert 'no_root_squash' in exports
    backend = devstack.ini('cinder/cinder.conf')['assisted-nfs']
    assert backend['nas_secure_file_operations'] == 'False'


def test_another_server(tmp_path: Path) -> None:
    """Nothing is exported then."""
    devstack = DevStack(tmp_path,
                        ASSISTED_EXPORT='nas.example.org:/vol')
    devstack.stack()
    assert not (tmp_path / 'exports.d').exists()
    assert (tmp_path / 'cinder' / 'nfs-shares-assisted-nfs.conf'
            ).read_text() == 'nas.example.org:/vol\n'


def test_configuration(devstack: DevStack) -> None:
    """Cinder, Nova and the agent; with real options and real paths."""
    devstack.run('stack', 'post-config')
    backend = devstack.ini('cinder/cinder.conf')['assisted-nfs']
    assert dict(backend) == {
        'volume_backend_name': 'assisted-nfs',
        'volume_driver': 'assisted_snapshots.cinder_driver.nfs.NfsDriver',
        'nfs_shares_config':
            f'{devstack.root}/cinder/nfs-shares-assisted-nfs.conf',
        'nfs_snapshot_support': 'True',
        'nas_secure_file_operations': 'True',
        'nas_secure_file_permissions': 'True'}
    nova = devstack.ini('nova-cpu.conf')
    assert nova['DEFAULT']['compute_driver'] == 'assisted.LibvirtDriver'
    assert dict(nova['cinder']) == {
        'auth_type': 'password', 'auth_url': 'http://keystone/identity',
        'username': 'nova', 'password': 'secret',
        'project_name': 'service', 'user_domain_name': 'Default',
        'project_domain_name': 'Default'}
    drop_in = (devstack.root / 'systemd' / 'devstack@n-cpu.service.d'
               / 'assisted-snapshots.conf').read_text()
    assert drop_in == (
        '[Service]\nExecStart=\n'
        f'ExecStart={devstack.root}/venv/bin/nova-compute-assisted '
        f'--config-file {devstack.root}/nova-cpu.conf\n')


def test_the_agent_can_read_its_configuration(devstack: DevStack) -> None:
    """With the agent's own options; nobody else reads the password."""
    devstack.run('stack', 'post-config')
    path = devstack.root / 'etc' / 'assisted-snapshot-agent.conf'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    conf = agent_conf.load(['--config-file', str(path)])
    known = {opt.name for opt in agent_conf.agent_opts}
    assert set(devstack.ini(str(path))['agent']) <= known
    assert conf.agent.state_dir == str(
        devstack.root / 'data' / 'assisted-snapshots')


def test_where_the_agent_runs(devstack: DevStack, tmp_path: Path) -> None:
    """With nova-compute, and nowhere else."""
    assert devstack.run('stack', 'extra') == [
        f'run_process assisted-agent {tmp_path}/venv/bin/'
        f'assisted-snapshot-agent --config-file '
        f'{tmp_path}/etc/assisted-snapshot-agent.conf libvirt']
    (tmp_path / 'other').mkdir()
    controller = DevStack(tmp_path / 'other', 'c-vol c-api')
    assert controller.run('stack', 'extra') == []
    controller.run('stack', 'post-config')
    assert not (controller.root / 'nova-cpu.conf').exists()


def test_tempest(devstack: DevStack) -> None:
    """What can be tested is switched on."""
    devstack.run('stack', 'test-config')
    features = devstack.ini('tempest.conf')['volume-feature-enabled']
    assert features['snapshot'] == features['volume_revert'] == 'True'
    assert features['extend_attached_volume'] == 'True'
    assert features['manage_snapshot'] == 'False'


@pytest.mark.parametrize('stacked', [True, False])
def test_unstack(devstack: DevStack, stacked: bool) -> None:
    """Nothing runs and nothing is exported; volumes stay."""
    if stacked:
        devstack.stack()
    calls = devstack.run('unstack')
    assert calls[0] == 'stop_process assisted-agent'
    assert ('exportfs -ra' in calls) is stacked
    left = devstack.files()
    assert not any(name.endswith('.exports') or 'n-cpu.service' in name
                   for name in left)
    assert ('data/assisted-share' in left) is stacked


def test_clean(devstack: DevStack) -> None:
    """Nothing at all is left of it."""
    devstack.run('clean')
    before = set(devstack.files())
    devstack.stack()
    assert set(devstack.files()) > before
    devstack.run('clean')
    left = set(devstack.files()) - before
    # These files are Cinder's, Nova's and tempest's own.
    assert left <= {'cinder/cinder.conf', 'nova-cpu.conf', 'tempest.conf',
                    'cinder/nfs-shares-assisted-nfs.conf', 'exports.d'}


@pytest.mark.parametrize(('file', 'ignored'), [
    ('plugin.sh', ''), ('settings', 'E005'), ('override-defaults', 'E005')])
def test_bashate(file: str, ignored: str) -> None:
    """OpenStack's style; two of the files have the names they must have."""
    subprocess.run(
        [Path(sys.executable).with_name('bashate'), '--error', '.',
         *(['--ignore', ignored] if ignored else []), PLUGIN / file],
        check=True)


def test_zuul() -> None:
    """The jobs can be read, and their choice of tests is one pattern."""
    jobs = {entry['job']['name']: entry['job'] for entry in yaml.safe_load(
        (ROOT / '.zuul.yaml').read_text()) if 'job' in entry}
    chosen = jobs['assisted-snapshots-tempest']['vars']['tempest_test_regex']
    assert not re.search(r'\s', chosen)
    assert re.match(chosen, 'tempest.scenario.test_minimum_basic.Test.test')
