# SPDX-License-Identifier: Apache-2.0
"""Passphrases of encrypted volumes, from the deployment's key manager.

The passphrase is what upstream makes of a key, so volumes open under either
driver.  It is asked for when a tool needs it, and kept in memory only: it
must never be part of a log, a file or a command line.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
import functools
from typing import Any

from castellan import key_manager
from cinder import context as cinder_context
from cinder import exception
from cinder import objects
from cinder.image import image_utils
from cinder.volume import volume_utils
from oslo_config import cfg
from oslo_context import context as current_context

from assisted_snapshots.chain.errors import NotEncrypted
from assisted_snapshots.chain.qemu_img import Secret
from assisted_snapshots.chain.value import Chain
from assisted_snapshots.cinder_driver.native import home

CONF = cfg.CONF

_OPTIONS = (('cipher-alg', 'cipher_alg'), ('cipher-mode', 'cipher_mode'),
            ('ivgen-alg', 'ivgen_alg'))


class NoKey(exception.VolumeDriverException):
    """A key without a passphrase in it."""

    message = 'the key manager gives nothing for key %(key)s'


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySecret(Secret):
    """A passphrase that the key manager is asked for when it is needed.

    :ivar fetch: asks it; belongs to the hub.
    """

    fetch: Callable[[], bytes] = field(repr=False)

    def passphrase(self) -> bytes:
        """Return the passphrase."""
        return home(self.fetch)


def secret_of(context: Any, encryption_key_id: str | None,
              cipher: tuple[tuple[str, str], ...] = ()) -> Secret | None:
    """Return the passphrase that a key is; None where there is no key."""
    if not encryption_key_id:
        return None
    return KeySecret(b'', cipher=cipher, fetch=functools.cache(
        functools.partial(_fetch, context, encryption_key_id)))


def secret_for(context: cinder_context.RequestContext,
               volume: objects.Volume) -> Secret | None:
    """Return a volume's passphrase, with the cipher that its type wants."""
    if not volume.encryption_key_id:
        return None
    return secret_of(_asker(context), volume.encryption_key_id,
                     _cipher(context, volume))


def check(context: cinder_context.RequestContext,
          volume: objects.Volume) -> None:
    """See that a new volume can be encrypted as its type says.

    :raises VolumeDriverException: by no LUKS, or the type does not say how.
    """
    if volume.encryption_key_id:
        found = volume_utils.check_encryption_provider(volume, context)
        image_utils.decode_cipher(found['cipher'], found['key_size'])


def alike(context: cinder_context.RequestContext, volume: objects.Volume,
          encryption_key_id: str) -> bool:
    """Tell whether a key is that of a volume; ids differ even of copies."""
    asker = _asker(context)
    return _fetch(asker, encryption_key_id) == _fetch(
        asker, volume.encryption_key_id)


def check_layers(volume: objects.Volume, chain: Chain) -> None:
    """See that an encrypted volume's layers are not taken for plain.

    :raises NotEncrypted: nobody has converted them yet, or they are plain.
    """
    if volume.encryption_key_id and not chain.active.encrypted:
        raise NotEncrypted(volume=volume.name, file=chain.active.name)


def _cipher(context: cinder_context.RequestContext,
            volume: objects.Volume) -> tuple[tuple[str, str], ...]:
    """Return how new layers are encrypted, in QEMU's words.

    A volume whose type has been changed since keeps working: LUKS layers
    need not have one cipher.
    """
    try:
        spec = volume_utils.check_encryption_provider(volume, context)
        said = image_utils.decode_cipher(spec['cipher'], spec['key_size'])
    except exception.CinderException:
        return ()
    # dm-crypt's "essiv:sha256" are two options here.
    ivgen, _, digest = said['ivgen_alg'].partition(':')
    found = tuple((option, {**said, 'ivgen_alg': ivgen}[name])
                  for option, name in _OPTIONS)
    return (*found, ('ivgen-hash-alg', digest)) if digest else found


def _asker(context: cinder_context.RequestContext) -> Any:
    """Return who asks for keys: the user whose request this is, if any.

    Key managers of users, as Barbican, let nobody else read them.
    """
    current = current_context.get_current()
    if current is not None and current.auth_token:
        return current
    return context


def _fetch(context: Any, encryption_key_id: str) -> bytes:
    key = key_manager.API(CONF).get(context, encryption_key_id)
    encoded = key.get_encoded()
    if not encoded:
        raise NoKey(key=encryption_key_id)
    return binascii.hexlify(encoded)
