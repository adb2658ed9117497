# SPDX-License-Identifier: Apache-2.0
"""What Nova has written down, where no interface shows it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pymysql

from tests.cloud.lab.settings import Settings


def mapping(settings: Settings, volume: str) -> dict[str, Any]:
    """Connection info of a volume's only block-device mapping.

    Nova starts guests from it.
    """
    with contextlib.closing(pymysql.connect(
            host='127.0.0.1', port=settings.ports['database'], user='root',
            database='nova')) as connection, connection.cursor() as cursor:
        cursor.execute(
            'SELECT connection_info FROM block_device_mapping '
            'WHERE volume_id = %s AND deleted = 0', (volume,))
        ((text,),) = cursor.fetchall()
    return dict(json.loads(text))
