# SPDX-License-Identifier: Apache-2.0
"""A key manager in which every volume can have a key of its own."""

from __future__ import annotations

from typing import Any
from typing import ClassVar

from castellan.tests.unit.key_manager import mock_key_manager
from oslo_config import cfg


class Keys(mock_key_manager.MockKeyManager):
    """Castellan's own for tests, with one set of keys for all who ask.

    Cinder's, of the configuration file, has one key.
    """

    known: ClassVar[dict[str, Any]] = {}

    def __init__(self, configuration: Any = None) -> None:
        super().__init__(configuration)  # type: ignore[no-untyped-call]
        self.keys = self.known

    @classmethod
    def install(cls) -> None:
        """Have Cinder ask this one, which knows no key yet."""
        cls.known.clear()
        cfg.CONF.set_override('backend', f'{cls.__module__}.{cls.__name__}',
                              'key_manager')
