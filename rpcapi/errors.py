# SPDX-License-Identifier: Apache-2.0
"""Errors that cross the wire and arrive as the class they were raised as.

oslo.messaging rebuilds a remote exception from its module, class name and
``kwargs``; a client lists this module in ``allowed_remote_exmods``.  The
``code`` strings are part of the protocol: never change one.

The last four classes are raised on the client's side, for what happens
between the two.
"""

from __future__ import annotations

from typing import Any

_PLAIN = (str, int, float, type(None))


class AgentError(Exception):
    """Base of all errors the agent answers with."""

    code = 'error'
    message = '{reason}'

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A remote error is rebuilt with the finished sentence as its only
        # argument next to the fields.
        # What JSON cannot carry crosses as its text: an error that could not
        # be sent would be silence to the client.
        self.kwargs = {name: value if isinstance(value, _PLAIN) else
                       str(value) for name, value in kwargs.items()}
        super().__init__(args[0] if args else self.message.format(**kwargs))


class InvalidRequest(AgentError):
    """A message whose content cannot be accepted."""

    code = 'invalid-request'
    message = '{field}: {reason}'


class VolumeNotFound(AgentError):
    """No guest on this host has the volume."""

    code = 'volume-not-found'
    message = 'no guest on {host} has volume {volume_id} attached'


class MultiAttached(AgentError):
    """More than one disk carries the volume's serial."""

    code = 'multi-attached'
    message = 'volume {volume_id} is attached more than once: {where}'


class GuestState(AgentError):
    """The guest's state forbids the operation."""

    code = 'guest-state'
    message = 'guest {domain}: {reason}'


class GuestLost(AgentError):
    """The guest went away in the one moment in which its layer changed."""

    code = 'guest-lost'
    message = ('guest {domain} went away while it was moved to another '
               'layer ({reason}); which one it wrote to last is not known. '
               'Keep every file')


class DiskBusy(AgentError):
    """The disk already has a job."""

    code = 'disk-busy'
    message = 'disk {device} of {domain} already has a job: {job}'


class ChainMismatch(AgentError):
    """The live chain is neither what was planned on nor the result."""

    code = 'chain-mismatch'
    message = ('volume {volume_id}: the live chain is {found}, expected '
               '{expected}; nothing was changed')


class BadOverlay(AgentError):
    """The file offered as the new active layer is not fit for it."""

    code = 'bad-overlay'
    message = '{file}: {reason}'


class BadLayer(AgentError):
    """A layer of the chain cannot be read as a whole."""

    code = 'bad-layer'
    message = '{file}: {reason}; nothing was changed'


class JobConflict(AgentError):
    """The same operation was asked before, for other layers."""

    code = 'job-conflict'
    message = ('{kind} of {subject} was asked before for {earlier}, now for '
               '{now}; refused')


class JobNotFound(AgentError):
    """No such job."""

    code = 'job-not-found'
    message = 'no job {job_id} on {host}'


class JobState(AgentError):
    """The job's state forbids the request."""

    code = 'job-state'
    message = 'job {job_id} is {state}: {reason}'


class NotSupported(AgentError):
    """This host cannot do it; says why and the remedy."""

    code = 'not-supported'
    message = '{reason}'


class TooManyLayers(AgentError):
    """One more layer, and libvirt could not start the guest again."""

    code = 'too-many-layers'
    message = ('volume {volume_id} has {found} layers and this host takes '
               '{most} at the most (option max_layers); delete a snapshot '
               'first')


class QuiesceFailed(AgentError):
    """Quiescing was required and did not succeed; no snapshot was taken."""

    code = 'quiesce-failed'
    message = 'guest {domain} could not be quiesced: {reason}'


class NotRunning(AgentError):
    """Only a running guest could be told; its file can be worked on."""

    code = 'not-running'
    message = 'guest {domain} is shut off'


class WouldShrink(AgentError):
    """The volume is larger already, and nothing shrinks."""

    code = 'would-shrink'
    message = ('volume {volume_id} has {found} bytes, {wanted} were asked '
               'for; nothing shrinks, and nothing was changed')


class OutcomeUnknown(AgentError):
    """libvirt went away before it answered; asking again tells."""

    code = 'outcome-unknown'
    message = ('libvirt went away before it answered to {call} of disk '
               '{device} of {domain}: {reason}. Whether it was done shows '
               'when the request is repeated')


class HypervisorDown(AgentError):
    """libvirtd cannot be reached; the request was not accepted."""

    code = 'hypervisor-down'
    message = 'libvirt at {uri} cannot be reached: {reason}'


class LibvirtFailed(AgentError):
    """libvirt refused a call for a reason of its own."""

    code = 'libvirt-failed'
    message = 'libvirt {call}: {reason}'


class BlockJobFailed(AgentError):
    """QEMU gave the block job up; the chain is as it was."""

    code = 'block-job-failed'
    message = ('{method} on disk {device} of {domain} failed in QEMU: '
               '{reason}; the chain is as it was and no file is removed')


class NotDurable(AgentError):
    """Merged, but not seen on stable storage."""

    code = 'not-durable'
    message = ('{volume_id}: the merged data were not seen on stable storage '
               'after {attempts} attempts: {reason}; keep every file and '
               'repeat the operation')


class DeadlinePassed(AgentError):
    """Not begun in time, so not begun at all."""

    code = 'deadline-passed'
    message = ('not begun within {seconds:g} s of being accepted; nothing '
               'was changed')


class JobFailed(AgentError):
    """A job ended in FAILED; ``code`` is the job's own error code."""

    code = 'job-failed'
    message = 'job {job_id} failed: {reason}'

    @property
    def job_code(self) -> str:
        """The error code the agent gave the job."""
        return str(self.kwargs.get('job_code', ''))


class JobAborted(AgentError):
    """A job ended in ABORTED."""

    code = 'job-aborted'
    message = 'job {job_id} was aborted: {reason}'


class InternalError(AgentError):
    """The agent met something it has no name for; its log tells more."""

    code = 'internal'
    message = '{host} failed in {method}: {reason}'


class NotUnderstood(AgentError):
    """The two sides speak different versions; nothing was done."""

    code = 'not-understood'
    message = ('{host} and this program do not understand each other in '
               '{method} of RPC version {version}: {reason}')


class PeerSilent(AgentError):
    """No answer in time; whether the request was accepted is not known."""

    code = 'peer-silent'
    message = ('no answer from {host} to {method} within {seconds:g} s; it '
               'may or may not have been accepted')


class BrokerUnreachable(AgentError):
    """The message broker cannot be reached; ``reason`` says why."""

    code = 'broker-unreachable'
    message = 'the message broker cannot be reached: {reason}'


def plain(error: AgentError) -> AgentError:
    """Return a received error as the class it was raised as.

    oslo.messaging hands out a subclass made up on the spot whose text ends
    in the remote traceback.
    """
    name = type(error).__name__.removesuffix('_Remote')
    found = globals().get(name)
    cls = (found if isinstance(found, type)
           and issubclass(found, AgentError) else AgentError)
    return cls(*error.args[:1], **error.kwargs)
