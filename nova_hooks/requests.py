# SPDX-License-Identifier: Apache-2.0
"""What Cinder asked Nova for, as what the agent is asked for.

Cinder's request names files and means an operation that depends on the live
chain; the agent's names every layer, so that a repeated request can never
reach one that it was not meant for.  Pure functions; the wire formats are
those of Nova's ``os-assisted-volume-snapshots``.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeVar

from assisted_snapshots.nova_hooks.errors import Refused
from assisted_snapshots.rpcapi.errors import InvalidRequest
from assisted_snapshots.rpcapi.messages import CreateRequest
from assisted_snapshots.rpcapi.messages import Kind
from assisted_snapshots.rpcapi.messages import MergeRequest

_T = TypeVar('_T')

#: Who asks; the reports of these jobs are for Cinder too.
ORIGIN = 'nova'

_TYPE = 'qcow2'


def create_request(volume_id: str,
                   create_info: Mapping[str, Any]) -> CreateRequest:
    """Return what to ask for a new snapshot.

    :raises Refused: the request is not one of Cinder's.
    """
    _check_type(create_info)
    return _checked(CreateRequest.from_wire, {
        'disks': [{'volume_id': volume_id,
                   'snapshot_id': create_info.get('snapshot_id'),
                   'new_file': create_info.get('new_file')}],
        'report': True, 'origin': ORIGIN})


def merge_request(volume_id: str, snapshot_id: str,
                  delete_info: Mapping[str, Any],
                  live: tuple[str, ...]) -> MergeRequest | None:
    """Return what to ask for a delete; None if nothing is left to do.

    ``merge_target_file`` null means a pull into the active layer, of all
    that is above ``file_to_merge``, or of everything where that is null too.
    Otherwise ``file_to_merge`` is committed into ``merge_target_file``.

    :param live: the guest's layers, base first.
    :raises Refused: the files are not where the request says.
    """
    _check_type(delete_info)
    for key in ('file_to_merge', 'merge_target_file'):
        if key not in delete_info:
            raise Refused(what='delete_info', reason=f'{key} is missing')
    top, target = delete_info['file_to_merge'], delete_info[
        'merge_target_file']
    merged = (_pulled(top, live) if target is None
              else _committed(top, target, live))
    if len(merged) < 2:
        return None
    return _checked(MergeRequest.from_wire, {
        'kind': Kind.DELETE, 'volume_id': volume_id, 'subject': snapshot_id,
        'before': live, 'merged': merged,
        'survivor': merged[-1] if target is None else merged[0],
        'report': True, 'origin': ORIGIN})


def _pulled(base: object, live: tuple[str, ...]) -> tuple[str, ...]:
    if base is None:
        return live
    return live[_position(base, live) + 1:]


def _committed(top: object, target: object,
               live: tuple[str, ...]) -> tuple[str, ...]:
    low, high = _position(target, live), _position(top, live)
    if low >= high:
        raise Refused(what='delete_info',
                      reason=f'{target} is not below {top}')
    if high == len(live) - 1:
        raise Refused(
            what='delete_info',
            reason=f'{top} is the active layer, which Cinder expects to '
                   f'stay')
    return live[low:high + 1]


def _position(name: object, live: tuple[str, ...]) -> int:
    if name not in live:
        raise Refused(
            what='delete_info', reason=f'{name} is not in the chain '
                                       f'{" <- ".join(live)}')
    return live.index(str(name))


def _check_type(info: Mapping[str, Any]) -> None:
    if info.get('type') != _TYPE:
        raise Refused(what='type', reason=f'{info.get("type")!r} is not '
                                          f'{_TYPE!r}')


def _checked(read: Callable[[object], _T], wire: object) -> _T:
    try:
        return read(wire)
    except InvalidRequest as exc:
        raise Refused(what='request', reason=str(exc)) from exc
