# SPDX-License-Identifier: Apache-2.0
"""Options: upstream's unchanged, ours beside them."""

from __future__ import annotations

from cinder.volume.drivers import nfs

from assisted_snapshots.cinder_driver import options
from assisted_snapshots.cinder_driver.nfs import NfsDriver


def test_upstream_s_options_are_all_there() -> None:
    found = NfsDriver.get_driver_options()
    assert [opt for opt in nfs.NfsDriver.get_driver_options()
            if opt not in found] == []
    assert [opt for opt in options.driver_opts if opt not in found] == []


def test_ours_have_one_prefix_and_a_help() -> None:
    for opt in options.driver_opts:
        assert opt.name.startswith('assisted_')
        assert opt.help and opt.help.endswith('.')


def test_the_sample_file_shows_them_where_backends_share_options() -> None:
    assert options.list_opts() == [('backend_defaults', options.driver_opts)]
