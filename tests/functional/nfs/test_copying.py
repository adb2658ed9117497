# SPDX-License-Identifier: Apache-2.0
"""Who copies the bytes of a clone: the server, if it can."""

from __future__ import annotations

from typing import Any

from tests.functional.nfs.lab.client import Client
from tests.functional.nfs.lab.client import ROOT
from tests.functional.nfs.lab.volume import MIB
from tests.functional.nfs.lab.volume import Share
from tests.functional.nfs.lab.volume import Volume

INSIDE = 'tests.functional.nfs.inside.volumes'


def test_the_server_copies_a_file_that_it_cannot_share(
        share: Share, one: Client) -> None:
    """It was asked for shared extents first; ganesha has none to give.

    Less than two requests' worth the client's kernel copies itself.
    """
    def asked(request: str) -> Any:
        return one.call(f'{INSIDE}:asked', share.mounted, request,
                        user=ROOT)

    volume = Volume(share, 'raw', 64 * MIB)
    volume.make(one)
    volume.write(one, (0, 8 * MIB, 1), (48 * MIB, MIB, 2))
    volume.do(one, 'create', 'a')
    volume.clone(one, 'a', 'volume-2', 'raw')
    assert asked('CLONE') == 1
    assert asked('COPY') == 1
    allocated = (share.folder / 'volume-2').stat().st_blocks * 512
    assert allocated < 10 * MIB
