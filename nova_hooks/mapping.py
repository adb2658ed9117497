# SPDX-License-Identifier: Apache-2.0
"""What Nova knows of a volume's file: the data of its connection_info.

Pure, so that it can be used where Nova is not.
"""

from __future__ import annotations

import os


def repoint(info: dict[str, dict[str, str]], name: str, form: str) -> bool:
    """Make a connection_info name another layer; tell if it did not."""
    data = info.get('data') or {}
    if 'name' not in data:
        return False
    wanted = {'name': name, 'format': form or data.get('format', '')}
    if 'device_path' in data:
        wanted['device_path'] = os.path.join(
            os.path.dirname(data['device_path']), name)
    if all(data.get(key) == value for key, value in wanted.items()):
        return False
    data.update(wanted)
    return True
