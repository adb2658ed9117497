# SPDX-License-Identifier: Apache-2.0
"""Is this a Nova that the hooks were written for?

The hooks override methods that Nova may change at any time.  That has to be
seen when nova-compute starts, not when a volume is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
import inspect

from assisted_snapshots.nova_hooks.errors import DoesNotFit

#: Major versions: the first that is known to fit, the first that is not.
VERSIONS = (34, 36)


def check(version: str,
          relied_on: Iterable[tuple[type, str, tuple[str, ...]]]) -> None:
    """Compare a Nova with what is expected of it.

    :param version: of Nova, ``34.0.0``.
    :param relied_on: class, method, and the names of its arguments.
    :raises DoesNotFit: says what is missing.
    """
    major = version.partition('.')[0]
    if not major.isdecimal() or not VERSIONS[0] <= int(major) < VERSIONS[1]:
        raise DoesNotFit(version=version, reason=(
            f'they are for versions {VERSIONS[0]} to {VERSIONS[1] - 1}'))
    for owner, name, wanted in relied_on:
        method = getattr(owner, name, None)
        if method is None:
            raise DoesNotFit(version=version,
                             reason=f'{owner.__name__} has no {name}')
        found = tuple(inspect.signature(method).parameters)[1:]
        if found != wanted:
            raise DoesNotFit(version=version, reason=(
                f'{owner.__name__}.{name} takes {", ".join(found)}, not '
                f'{", ".join(wanted)}'))
