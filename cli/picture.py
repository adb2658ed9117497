# SPDX-License-Identifier: Apache-2.0
"""Chains and plans drawn as text.

A line is a list of (text, style) pairs, so that a terminal gets colours and
a pipe gets the very same characters without them.  Control characters of
hostile names never reach the terminal: only checked names come here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assisted_snapshots.chain.plan import Direction
from assisted_snapshots.chain.plan import MergePlan
from assisted_snapshots.chain.plan import Method
from assisted_snapshots.chain.value import Layer
from assisted_snapshots.cli.units import human
from assisted_snapshots.cli.view import ChainView

Line = list[tuple[str, str]]

PLAIN = ''
DIM = 'dim'
VOLUME = 'bold'
SNAPSHOT = 'yellow'
ACTIVE = 'bold green'
GONE = 'red'
WARN = 'bold red'


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters a picture is made of."""

    branch: str
    last: str
    trunk: str
    snapshot: str
    active: str
    below: str
    cut: str


UNICODE = Glyphs('├─ ', '└─ ', '│  ', '◆', '●', ' ← ', '…')
ASCII = Glyphs('|- ', '`- ', '|  ', '*', '@', ' <- ', '~')


def glyphs_for(encoding: str | None) -> Glyphs:
    """Return the characters an output can carry."""
    try:
        ''.join(('├─└│◆●←…',)).encode(encoding or 'ascii')
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def draw_chain(view: ChainView, glyphs: Glyphs = UNICODE,
               width: int | None = None) -> list[Line]:
    """Draw a chain as a tree, base first.

    :param width: columns there are; overlay names are cut to fit.
    """
    state = view.state
    count = len(state.snapshots)
    lines: list[Line] = [[
        (state.volume, VOLUME),
        (f'  {human(state.chain.virtual_size)}, {count} '
         f'snapshot{"" if count == 1 else "s"}, '
         f'{human(state.chain.allocated)} on the share', PLAIN)]]
    if view.attachment is not None:
        lines.append([(f'in use by {view.attachment}', DIM)])
    names = _fit(view, glyphs, width)
    for index in range(len(state.chain.layers)):
        lines.append(_layer_line(view, index, names, glyphs))
        snapshot = view.snapshot_above(index)
        if snapshot is not None:
            lines.append([(glyphs.trunk, DIM),
                          (f'{glyphs.snapshot} snapshot {snapshot}',
                           SNAPSHOT)])
    lines += _warnings(view, glyphs)
    return lines


def _layer_line(view: ChainView, index: int, names: Sequence[str],
                glyphs: Glyphs) -> Line:
    """Draw one layer, its columns aligned with those of the others."""
    layer = view.state.chain.layers[index]
    active = layer is view.state.chain.active
    longest = max(len(n) for n in names)
    line = [(glyphs.last if active else glyphs.branch, DIM),
            (f'{names[index]:<{longest}}', ACTIVE if active else PLAIN),
            ('  ' + _facts(layer), DIM)]
    if active:
        line.append((f'  {glyphs.active} active', ACTIVE))
    return line


def _facts(layer: Layer) -> str:
    kind = 'luks' if layer.encrypted else str(layer.format)
    return (f'{kind:<5} {human(layer.virtual_size):>10} '
            f'{human(layer.allocated):>10} used')


def _fit(view: ChainView, glyphs: Glyphs,
         width: int | None) -> tuple[str, ...]:
    """Shorten overlay names to ``….<snapshot id>`` where room is short."""
    names = view.state.chain.names
    facts = max(len(_facts(v)) for v in view.state.chain.layers)
    room = (width or 1 << 30) - len(glyphs.last) - facts - len('    @ active')
    if max(len(n) for n in names) <= room:
        return names
    volume = view.state.volume
    return tuple(glyphs.cut + n.removeprefix(volume) if n != volume else n
                 for n in names)


def _warnings(view: ChainView, glyphs: Glyphs) -> list[Line]:
    lines: list[Line] = []
    if not view.agrees and view.attachment is not None:
        live = glyphs.below.join(view.attachment.layers)
        lines.append([(f'the guest runs on another chain: {live}', WARN)])
    if view.operation:
        lines.append([(view.operation, WARN)])
    return lines


_DOES = {
    Method.COMMIT: 'commit: {upper} is written into {survivor}',
    Method.ACTIVE_COMMIT: 'active commit: {upper} is written into '
                          '{survivor}, then the guest pivots to it',
    Method.PULL: 'pull: {lower} is copied into {survivor}',
    Method.REBASE: 'pull: {lower} is copied into {survivor}',
}


def draw_plan(plan: MergePlan, subject: str, attached: bool,
              glyphs: Glyphs = UNICODE) -> list[Line]:
    """Draw what a merge will do, before it is done."""
    does = _DOES[plan.method]
    if plan.method is Method.ACTIVE_COMMIT and not attached:
        does = _DOES[Method.COMMIT]
    gone = ', '.join(plan.removed)
    upper = ', '.join(plan.merged[1:])
    lower = ', '.join(plan.merged[:-1])
    text = does.format(upper=upper, lower=lower, survivor=plan.survivor)
    other = (Direction.UP if plan.direction is Direction.DOWN
             else Direction.DOWN)
    rows: list[tuple[str, Line]] = [
        ('method', [(text, PLAIN)]),
        ('copies', [(f'at most {human(plan.copy_bytes)}', ACTIVE),
                    (f' {plan.direction}; {other} it would be '
                     f'{human(plan.other_bytes)}', DIM)]),
        ('unlinks', [(gone, GONE)]),
        ('before', _row(plan.before, plan, glyphs)),
        ('after', _row(plan.after, plan, glyphs)),
    ]
    if plan.child:
        rows.insert(3, ('re-points', [(f'{plan.child} to {plan.survivor}',
                                       PLAIN)]))
    guest = ', while a guest has it' if attached else ''
    head: Line = [('delete snapshot ', PLAIN), (subject, SNAPSHOT),
                  (f' of {plan.volume}{guest}', PLAIN)]
    return [head] + [[(f'  {name:<10} ', DIM), *line] for name, line in rows]


def _row(names: Sequence[str], plan: MergePlan, glyphs: Glyphs) -> Line:
    line: Line = []
    for name in names:
        if line:
            line.append((glyphs.below, DIM))
        style = GONE if name in plan.removed else (
            ACTIVE if name == names[-1] else PLAIN)
        line.append((name, style))
    return line


def plain(lines: Sequence[Line]) -> str:
    """Join lines without colours."""
    return '\n'.join(''.join(text for text, _ in line).rstrip()
                     for line in lines)
