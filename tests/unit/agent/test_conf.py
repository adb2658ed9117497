# SPDX-License-Identifier: Apache-2.0
"""Options become settings; what is wrong with them is said at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from oslo_config import cfg
import pytest

from assisted_snapshots.agent import conf as options
from assisted_snapshots.agent.settings import AgentSettings
from assisted_snapshots.agent.settings import MUTABLE


class File:
    """A configuration file and the options read from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write()

    def write(self, text: str = '') -> None:
        self.path.write_text(text)

    def load(self) -> cfg.ConfigOpts:
        return options.load(['--config-file', str(self.path)])


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / 'agent.conf')


def test_defaults_are_those_of_the_core(file: File) -> None:
    found = options.settings(file.load())
    expected = AgentSettings(state_dir=Path('/var/lib/assisted-snapshots'))
    assert found == expected


def test_every_setting_has_its_option(file: File) -> None:
    group = file.load().agent
    names = {f.name for f in dataclasses.fields(AgentSettings)}
    assert names <= set(group)


def test_mutable_options_are_those_the_core_takes_over() -> None:
    assert {o.dest for o in options.agent_opts if o.mutable} == MUTABLE


def test_every_option_is_explained() -> None:
    for _, opts in options.list_opts():
        assert all(opt.help for opt in opts)


def test_fault_injection_is_not_in_the_sample() -> None:
    listed = {o.dest for _, opts in options.list_opts() for o in opts}
    assert 'crash_at' not in listed


@pytest.mark.parametrize(('line', 'words'), [
    ('bandwidth = fast', 'bandwidth'),
    ('bandwidth = -1', 'bandwidth'),
    ('poll_interval = 0', 'poll_interval'),
    ('raise_bandwidth = perhaps', 'raise_bandwidth'),
    ('flush_attempts = 0', 'flush_attempts')])
def test_wrong_value_names_the_option(file: File, line: str,
                                      words: str) -> None:
    file.write(f'[agent]\n{line}\n')
    with pytest.raises((cfg.Error, ValueError), match=words):
        options.settings(file.load())


def test_reload_takes_over_mutable_options_only(file: File) -> None:
    file.write('[agent]\nbandwidth = 5\nlibvirt_uri = test:///a\n')
    conf = file.load()
    file.write('[agent]\nbandwidth = 6\nlibvirt_uri = test:///b\n')
    conf.mutate_config_files()
    found = options.settings(conf)
    assert (found.bandwidth, found.libvirt_uri) == (6, 'test:///a')


@pytest.mark.parametrize('broken', ['[agent\n', 'bandwidth = 7\n[', None])
def test_reload_of_a_broken_file_changes_nothing(
        file: File, broken: str | None) -> None:
    file.write('[agent]\nbandwidth = 5\n')
    conf = file.load()
    if broken is None:
        file.path.unlink()
    else:
        file.write(broken)
    conf.mutate_config_files()
    assert options.settings(conf).bandwidth == 5
    file.write('[agent]\nbandwidth = 6\n')
    conf.mutate_config_files()
    assert options.settings(conf).bandwidth == 6
