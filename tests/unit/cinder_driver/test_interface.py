# SPDX-License-Identifier: Apache-2.0
"""The drivers have what Cinder calls, with the parameters it passes.

Cinder's own compliance tests find no method at all on Python 3, so they pass
for an empty class.  Here every method of an interface is called for as its
declaration says, and an empty class is seen to fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
import inspect
from pathlib import Path
from typing import Any

from cinder import interface
from cinder import objects

objects.register_all()

from cinder.interface import util  # noqa: E402
from cinder.interface import volume_driver  # noqa: E402
from cinder.interface import volume_group_driver  # noqa: E402
from cinder.interface import volume_manageable_driver  # noqa: E402
from cinder.interface import volume_snapshot_revert  # noqa: E402
from cinder.volume.drivers import nfs as upstream  # noqa: E402
import pytest  # noqa: E402

from assisted_snapshots.cinder_driver import gluster  # noqa: E402
from assisted_snapshots.cinder_driver import nfs  # noqa: E402
from assisted_snapshots.cinder_driver import options  # noqa: E402

DRIVERS = (nfs.NfsDriver, gluster.GlusterfsDriver)
INTERFACES = (
    volume_driver.VolumeDriverCore,
    volume_group_driver.VolumeGroupDriver,
    volume_manageable_driver.VolumeListManageableDriver,
    volume_snapshot_revert.VolumeSnapshotRevertDriver,
)
#: The guide says so: a snapshot cannot be managed by itself.
NOT_OFFERED = ['get_manageable_snapshots is not there']
GUIDE = Path(__file__).parents[3] / 'doc' / 'source' / 'cinder-driver.rst'
BOTH = pytest.mark.parametrize('cls', DRIVERS, ids=lambda cls: cls.__name__)


def lacking(cls: type, wanted: type) -> Iterator[str]:
    """Say what a class lacks of an interface, a sentence each."""
    for name, declared in inspect.getmembers(wanted, inspect.isfunction):
        found = getattr(cls, name, None)
        if name == '__init__' or isinstance(found, property):
            continue
        if not callable(found):
            yield f'{name} is not there'
            continue
        for args, kwargs in _calls(inspect.signature(declared)):
            try:
                inspect.signature(found).bind(*args, **kwargs)
            except TypeError as exc:
                yield f'{name}: {exc}'
                break


def _calls(declared: inspect.Signature) -> Iterator[
        tuple[list[str], dict[str, str]]]:
    """The shortest call, the longest, and the longest by keywords."""
    given = [p for p in declared.parameters.values()
             if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = [p.name for p in given if p.default is p.empty]
    yield needed, {}
    yield [p.name for p in given], {}
    yield needed, {p.name: '' for p in given[len(needed):]}


@BOTH
@pytest.mark.parametrize('wanted', INTERFACES, ids=lambda i: i.__name__)
def test_interface(cls: type, wanted: type) -> None:
    assert [what for what in lacking(cls, wanted)
            if what not in NOT_OFFERED] == []


@pytest.mark.parametrize('wanted', INTERFACES, ids=lambda i: i.__name__)
def test_an_empty_class_is_seen(wanted: type) -> None:
    assert list(lacking(type('Empty', (), {}), wanted))


def test_another_signature_is_seen() -> None:
    class Short(nfs.NfsDriver):
        def extend_volume(self, volume: Any) -> None:  # type: ignore
            """Without the size."""

    assert list(lacking(Short, volume_driver.VolumeDriverCore)) == [
        'extend_volume: too many positional arguments']


@BOTH
def test_cinder_knows_it(cls: Any) -> None:
    assert cls in interface._volume_register
    found = util.DriverInfo(cls)
    assert (found.version, found.supported) == (cls.VERSION, True)
    assert found.ci_wiki_name
    assert found.desc


def test_nothing_but_upstreams_and_ours_is_configurable() -> None:
    found = {opt.name for opt in nfs.NfsDriver.get_driver_options()}
    ours = {opt.name for opt in options.driver_opts}
    assert found == ours | {
        opt.name for opt in upstream.NfsDriver.get_driver_options()}
    assert all(name.startswith('assisted_') for name in ours)


def test_options_are_in_the_guide_and_the_sample() -> None:
    [(group, offered)] = options.list_opts()
    assert group == 'backend_defaults'
    assert list(offered) == options.driver_opts
    assert all(opt.help for opt in offered)
    assert '.. show-options:: assisted_snapshots.cinder_driver' in (
        GUIDE.read_text())
    [entry] = metadata.entry_points(group='oslo.config.opts',
                                    name='assisted_snapshots.cinder_driver')
    assert entry.load() is options.list_opts
