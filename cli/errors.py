# SPDX-License-Identifier: Apache-2.0
"""Errors of the command line itself: what was asked cannot be meant."""

from __future__ import annotations

from typing import Any


class UsageError(Exception):
    """Base: the command line is wrong; nothing was done."""

    message = 'usage error'

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.message.format(**fields))


class BadSize(UsageError):
    """A size that cannot be read."""

    message = ('size {text!r} is not understood; write bytes, or a number '
               'with K, M, G, T or P')


class OptionMissing(UsageError):
    """An option that this command cannot do without."""

    message = '{why}: give {option} or set {variable}'


class BadSecret(UsageError):
    """A passphrase that cannot be had."""

    message = 'passphrase of {volume}: {reason}'


class NotAFolder(UsageError):
    """The share is not a folder."""

    message = 'share {share}: {reason}'


class BadUrl(UsageError):
    """A transport URL that names no message bus."""

    message = '--transport-url: {reason}'
