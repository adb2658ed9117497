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


class AtWork(HookError):
    """A job of the agent is in the way of something that Nova is asked."""

    message = ('{kind} of {subject} is under way on volume {volume_id} (job '
               '{job_id}, {percent} %); repeat the request when that has '
               'ended, or abort the job')


class BlockJob(HookError):
    """The same, if only libvirt can be asked."""

    message = ('a block job runs on disk {device}, and the agent, whose it '
               'may be, does not answer; repeat the request when that has '
               'ended')


class BeingWritten(HookError):
    """The layers of a guest that is off are being merged."""

    message = ('the layers of volume {volume_id} are being merged while its '
               'guest is off ({file} is written to); start it when that has '
               'ended')


class MovedMeanwhile(HookError):
    """A snapshot came between the preparation of a migration and it."""

    message = ('volume {volume_id}: the other host was given {given}, but '
               'the guest runs on {file} now; repeat the migration')


class NoCredentials(HookError):
    """Nova cannot speak to Cinder in its own name."""

    message = ('the section [cinder] of nova.conf has no credentials '
               '(auth_type and what belongs to it), so that nobody could '
               'tell Cinder what has become of a snapshot: a report outlives '
               'the request that caused it')


class DoesNotFit(HookError):
    """This Nova is not one that the hooks were written for."""

    message = ('the hooks do not fit Nova {version}: {reason}. Install a '
               'release of assisted-snapshots for this Nova, or run plain '
               'nova-compute')
