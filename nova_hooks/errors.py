# SPDX-License-Identifier: Apache-2.0
"""Errors of the hooks: one class for each situation."""

from __future__ import annotations

from typing import Any


class HookError(Exception):
    """Base of all errors of this room; nothing was changed."""

    message = 'error in the assisted snapshot hooks'

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.message.format(**fields))


class Refused(HookError):
    """A request that cannot be carried out safely."""

    message = '{what}: {reason}; nothing was changed'


class StaleLayer(HookError):
    """A guest was about to be started on a layer that is not the last."""

    message = ('volume {volume_id}: {file} is not what the guest last wrote '
               'to: {reason}. The guest is not started, so that nothing is '
               'lost; {remedy}')


class DoesNotFit(HookError):
    """This Nova is not one that the hooks were written for."""

    message = ('the hooks do not fit Nova {version}: {reason}. Install a '
               'release of assisted-snapshots for this Nova, or run plain '
               'nova-compute')
