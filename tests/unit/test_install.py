# SPDX-License-Identifier: Apache-2.0
"""What an installation brings is what the documentation says."""

from __future__ import annotations

from importlib import metadata
import io
from pathlib import Path
import tomllib

from oslo_config import cfg
from oslo_config import generator
import pytest

from assisted_snapshots.agent import conf

ROOT = Path(__file__).resolve().parents[2]
NAME = 'assisted-snapshots'


@pytest.fixture(scope='module')
def installed() -> metadata.Distribution:
    return metadata.distribution(NAME)


@pytest.fixture(scope='module')
def sample() -> str:
    """The agent's sample configuration, as tox -e genconfig writes it."""
    options = cfg.ConfigOpts()
    generator.register_cli_opts(options)
    options(['--namespace', 'assisted_snapshots.agent'])
    text = io.StringIO()
    generator.generate(options, text)
    return text.getvalue()


def test_it_is_this_version(installed: metadata.Distribution) -> None:
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert installed.version == project['version']


def test_one_name_on_top(installed: metadata.Distribution) -> None:
    names = installed.read_text('top_level.txt') or ''
    assert names.split() == ['assisted_snapshots']


@pytest.mark.parametrize(('group', 'name'), [
    ('console_scripts', 'assisted-snapshot'),
    ('console_scripts', 'assisted-snapshot-agent'),
    ('oslo.config.opts', 'assisted_snapshots.agent'),
])
def test_entry_point_can_be_called(installed: metadata.Distribution,
                                   group: str, name: str) -> None:
    found = installed.entry_points.select(group=group, name=name)
    assert callable(found[name].load())


@pytest.mark.parametrize(('group', 'option'), [
    (group or 'DEFAULT', option) for group, options in conf.list_opts()
    for option in options], ids=lambda value: getattr(value, 'name', value))
def test_sample_has_every_option(sample: str, group: str,
                                 option: cfg.Opt) -> None:
    _, _, rest = sample.partition(f'[{group}]\n')
    section, _, _ = rest.partition('\n[')
    assert f'\n#{option.name} = ' in section
    assert option.help


def test_unit_runs_the_installed_script(
        installed: metadata.Distribution) -> None:
    unit = (ROOT / 'etc' / 'systemd' / 'assisted-snapshot-agent.service')
    start = [line for line in unit.read_text().splitlines()
             if line.startswith('ExecStart=')]
    scripts = installed.entry_points.select(group='console_scripts').names
    assert [Path(line.split('=')[1].split()[0]).name in scripts
            for line in start] == [True]
