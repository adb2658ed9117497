# SPDX-License-Identifier: Apache-2.0
"""The virtual environment of the OpenStack services.

It is large, so it is made when a cloud is first wanted, and again when
this list or the project's requirements change.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
from pathlib import Path
import subprocess
import sys

from tests.cloud.lab.settings import VENV
from tests.functional.lab import paths

#: The releases that the project is made for.
REQUIREMENTS = (
    'cinder>=29,<30',
    'glance>=33,<34',
    'keystone>=30,<31',
    'nova>=34,<35',
    'openstack-placement>=16,<17',
    'pymysql>=1.1',
    'python-openstackclient>=7',
    'waitress>=3',
)


def ensure(venv: Path = VENV,
           requirements: Sequence[str] = REQUIREMENTS) -> None:
    """Install what is not there yet, and the project."""
    stamp = venv / 'installed'
    digest = hashlib.sha256(repr(requirements).encode())
    for name in ('pyproject.toml', 'setup.cfg'):
        digest.update((paths.CHECKOUT / name).read_bytes())
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    subprocess.run([sys.executable, '-m', 'venv', venv], check=True)
    subprocess.run([venv / 'bin/python', '-m', 'pip', 'install', '-qq', '-e',
                    paths.CHECKOUT, *requirements], check=True)
    stamp.write_text(digest.hexdigest())


if __name__ == '__main__':
    ensure()
