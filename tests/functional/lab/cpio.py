# SPDX-License-Identifier: Apache-2.0
"""Writes an initramfs archive (cpio "newc").

It needs no root, and the same content makes the same bytes.
"""

from __future__ import annotations

import stat


class Archive:
    """Collects entries; :meth:`data` is the finished archive."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._entries = 0
        self._folders: set[str] = set()

    def folder(self, name: str) -> None:
        """Add a folder and those above it, once."""
        if name and name not in self._folders:
            self.folder(name.rpartition('/')[0])
            self._folders.add(name)
            self._add(name, stat.S_IFDIR | 0o755, b'')

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self.folder(name.rpartition('/')[0])
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self.folder(name.rpartition('/')[0])
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def data(self) -> bytes:
        """The whole archive."""
        self._add('TRAILER!!!', 0, b'')
        return b''.join(self._parts)

    def _add(self, name: str, mode: int, data: bytes) -> None:
        self._entries += 1
        fields = (self._entries, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0,
                  len(name) + 1, 0)
        head = b'070701' + b''.join(b'%08x' % f for f in fields)
        for part in (head + name.encode() + b'\0', data):
            self._parts.append(part + bytes(-len(part) % 4))
