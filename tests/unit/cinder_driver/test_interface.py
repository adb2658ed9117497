# SPDX-License-Identifier: Apache-2.0
"""Every method can be called as Cinder calls it.

Cinder's own check of drivers finds no method on Python 3, so that any class
passes it; this one looks at signatures.
"""

from __future__ import annotations

from collections.abc import Iterator
import inspect
from typing import Any

from cinder import interface
from cinder.interface import volume_driver
from cinder.interface import volume_manageable_driver
from cinder.interface import volume_snapshot_revert
from cinder.volume import driver
from cinder.volume.drivers import nfs
import pytest

from assisted_snapshots.cinder_driver.mixin import AssistedSnapshots
from assisted_snapshots.cinder_driver.nfs import NfsDriver

INTERFACES = (volume_driver.VolumeDriverCore,
              volume_manageable_driver.VolumeManagementDriver,
              volume_snapshot_revert.VolumeSnapshotRevertDriver)

_NAMED = (inspect.Parameter.POSITIONAL_ONLY,
          inspect.Parameter.POSITIONAL_OR_KEYWORD)


def methods(cls: type) -> Iterator[str]:
    """Yield names of the public methods of a class and its bases."""
    for name, _ in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith('_'):
            yield name


def named(cls: type, name: str) -> list[inspect.Parameter]:
    """Parameters that a method is called with, without ``self``."""
    found = inspect.getattr_static(cls, name)
    if isinstance(found, property):
        return []
    method = inspect.unwrap(getattr(cls, name))
    given = [parameter for parameter
             in inspect.signature(method).parameters.values()
             if parameter.kind in _NAMED]
    bound = isinstance(found, staticmethod | classmethod)
    return given if bound else given[1:]


def complaints(theirs: type, ours: type, name: str, by_name: bool
               ) -> list[str]:
    """Say how a method cannot be called as that of another class can."""
    wanted, has = named(theirs, name), named(ours, name)
    wrong = []
    for n, parameter in enumerate(wanted):
        if n >= len(has):
            optional = parameter.default is not inspect.Parameter.empty
            if not optional:
                wrong.append(f'takes no {parameter.name}')
        elif by_name and has[n].name != parameter.name:
            wrong.append(f'calls {parameter.name} {has[n].name}')
    least = sum(p.default is inspect.Parameter.empty for p in has)
    if least > sum(p.default is inspect.Parameter.empty for p in wanted):
        wrong.append('needs more')
    return wrong


@pytest.mark.parametrize(('theirs', 'name'), [
    (cls, name) for cls in INTERFACES for name in methods(cls)])
def test_interfaces(theirs: type, name: str) -> None:
    assert complaints(theirs, NfsDriver, name, False) == []


@pytest.mark.parametrize('name', [
    name for name in methods(AssistedSnapshots)
    if hasattr(nfs.NfsDriver, name)])
def test_what_replaces_upstream_s_is_called_like_it(name: str) -> None:
    assert complaints(nfs.NfsDriver, NfsDriver, name, True) == []


def test_the_check_can_say_no() -> None:
    class Theirs:
        def do(self, volume: Any, size: int, force: bool = False) -> None: ...

    class Short:
        def do(self, volume: Any) -> None: ...

    class Renamed:
        def do(self, volume: Any, gigabytes: int) -> None: ...

    class Longer:
        def do(self, volume: Any, size: int, more: Any) -> None: ...

    assert complaints(Theirs, Short, 'do', True) == ['takes no size']
    assert complaints(Theirs, Renamed, 'do', True) == ['calls size gigabytes']
    assert complaints(Theirs, Renamed, 'do', False) == []
    assert 'needs more' in complaints(Theirs, Longer, 'do', False)


def test_cinder_knows_the_driver() -> None:
    assert NfsDriver in interface._volume_register
    assert NfsDriver.SUPPORTS_ACTIVE_ACTIVE
    assert NfsDriver.SUPPORTED
    assert NfsDriver.VERSION and NfsDriver.CI_WIKI_NAME
    assert issubclass(NfsDriver, driver.BaseVD)


def test_nothing_of_upstream_touches_a_chain() -> None:
    """What upstream does to a chain has one of ours in front of it."""
    chained = ('create_volume', 'delete_volume', 'extend_volume',
               'create_snapshot', 'delete_snapshot', 'revert_to_snapshot',
               'create_volume_from_snapshot', 'create_cloned_volume',
               'copy_image_to_volume', 'copy_volume_to_image',
               'initialize_connection', 'terminate_connection',
               'update_migrated_volume', 'manage_existing', 'unmanage')
    for name in chained:
        module = inspect.unwrap(getattr(NfsDriver, name)).__module__
        assert module.startswith('assisted_snapshots.'), (name, module)
