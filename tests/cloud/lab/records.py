# SPDX-License-Identifier: Apache-2.0
"""What Nova has written down, where no interface shows it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
from typing import Any

import pymysql

from tests.cloud.lab.settings import Settings


def mapping(settings: Settings, volume: str) -> dict[str, Any]:
    """Connection info of a volume's only block-device mapping.

    Nova starts guests from it.
    """
    with _nova(settings) as cursor:
        cursor.execute(
            'SELECT connection_info FROM block_device_mapping '
            'WHERE volume_id = %s AND deleted = 0', (volume,))
        ((text,),) = cursor.fetchall()
    return dict(json.loads(text))


def size(settings: Settings, volume: str) -> int:
    """A volume's size in GiB, as its only block-device mapping has it."""
    with _nova(settings) as cursor:
        cursor.execute(
            'SELECT volume_size FROM block_device_mapping '
            'WHERE volume_id = %s AND deleted = 0', (volume,))
        ((found,),) = cursor.fetchall()
    return int(found)


def write_mapping(settings: Settings, volume: str, info: dict[str, Any]
                  ) -> None:
    """Let the mapping say something else."""
    with _nova(settings) as cursor:
        cursor.execute(
            'UPDATE block_device_mapping SET connection_info = %s '
            'WHERE volume_id = %s AND deleted = 0', (json.dumps(info), volume))


@contextlib.contextmanager
def _nova(settings: Settings) -> Iterator[Any]:
    """Nova's database."""
    with contextlib.closing(pymysql.connect(
            host='127.0.0.1', port=settings.ports['database'], user='root',
            database='nova', autocommit=True)) as connection, \
            connection.cursor() as cursor:
        yield cursor
