# SPDX-License-Identifier: Apache-2.0
"""The hooks fit this Nova, and say so where they do not fit another."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from assisted_snapshots.nova_hooks import compat
from assisted_snapshots.nova_hooks.errors import DoesNotFit

# Nova and Cinder, whose tests share this process, register the same options
# twice: what needs Nova runs in a process of its own.
_LOAD = """
from nova.cmd import compute
from assisted_snapshots.nova_hooks import cmd
cmd.register()
from oslo_utils import importutils
from nova import monkey_patch
driver = importutils.import_class('nova.virt.assisted.LibvirtDriver')
print(driver.__name__, monkey_patch.is_patched())
"""


class Driver:
    """Stands for a Nova that has changed."""

    def reboot(self, context: Any, instance: Any) -> None:
        """Take what the hooks expect."""


@pytest.mark.parametrize('wrong', ['33.0.0', '36.0.0', '', 'unknown'])
def test_another_version(wrong: str) -> None:
    """A Nova that nobody has tried is refused, by its version."""
    with pytest.raises(DoesNotFit, match=f'Nova {wrong}'):
        compat.check(wrong, ())


def test_changed_methods() -> None:
    """A method that is gone, or takes something else, is named."""
    fits = (Driver, 'reboot', ('context', 'instance'))
    compat.check('34.0.0', [fits])
    with pytest.raises(DoesNotFit, match='Driver has no shelve'):
        compat.check('34.0.0', [fits, (Driver, 'shelve', ())])
    with pytest.raises(DoesNotFit, match=r'Driver\.reboot takes context, '):
        compat.check('34.0.0', [(Driver, 'reboot', ('instance',))])


@pytest.mark.parametrize('disabled', ['1', '0'])
def test_nova_can_load_the_driver(disabled: str) -> None:
    """By the name in nova.conf, on native threads and on eventlet.

    Registering has compared this Nova with all that is relied on.
    """
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _LOAD], check=True,
        capture_output=True, text=True,
        env={'OS_NOVA_DISABLE_EVENTLET_PATCHING': disabled})
    assert done.stdout.split() == ['AssistedLibvirtDriver',
                                   str(disabled == '0')]
