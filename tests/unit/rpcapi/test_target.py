# SPDX-License-Identifier: Apache-2.0
"""Where requests and reports go is part of the protocol."""

from __future__ import annotations

import importlib

from assisted_snapshots.rpcapi import errors
from assisted_snapshots.rpcapi import target


def test_agent() -> None:
    found = target.agent('compute-1')
    assert (found.exchange, found.topic, found.server) == (
        'assisted-snapshots', 'assisted-snapshot', 'compute-1')
    assert (found.version, found.namespace) == ('1.0', None)


def test_report() -> None:
    found = target.report('compute-1')
    assert (found.exchange, found.topic, found.server) == (
        'assisted-snapshots', 'assisted-snapshot-report', 'compute-1')
    assert (found.version, found.namespace) == ('1.0', None)


def test_only_our_errors_are_rebuilt() -> None:
    assert [importlib.import_module(name) for name in target.EXMODS] == [
        errors]
