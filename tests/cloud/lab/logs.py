# SPDX-License-Identifier: Apache-2.0
"""What the services have logged."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
import re

from tests.cloud.lab.settings import HOSTS
from tests.cloud.lab.settings import Settings

#: Whose errors count: those that take part in what the project does.
SERVICES = ('cinder', 'cinder-volume', 'cinder-backup', 'nova',
            *(f'nova-{host}' for host in HOSTS))
#: A record's own line, not those of its traceback.
ERROR = re.compile(r'^\S+ \S+ \d+ (?:ERROR|CRITICAL) \S+ '
    r'\[(?:None |req-|-\]).*', re.MULTILINE)


def sizes(settings: Settings) -> dict[str, int]:
    """How long each log is now."""
    agents = [f'agent-{host}' for host in HOSTS if settings.has_hooks(host)]
    return {name: _path(settings, name).stat().st_size
            for name in (*SERVICES, *agents)}


def errors(settings: Settings, since: Mapping[str, int],
           expected: Sequence[str]) -> list[str]:
    """Errors logged since then, but for those that hold an expected text."""
    found = []
    for name, size in since.items():
        text = _since(settings, name, size)
        found += [f'{name}: {line}' for line in ERROR.findall(text)
                  if not any(part in line for part in expected)]
    return found


def tell(settings: Settings, since: Mapping[str, int], text: str) -> bool:
    """Whether a text has been logged since then."""
    return any(text in _since(settings, name, size)
               for name, size in since.items())


def _since(settings: Settings, name: str, size: int) -> str:
    with open(_path(settings, name), 'rb') as file:
        file.seek(size)
        return file.read().decode(errors='replace')


def _path(settings: Settings, name: str) -> Path:
    return settings.log / f'{name}.log'
