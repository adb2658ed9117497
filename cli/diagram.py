# SPDX-License-Identifier: Apache-2.0
"""A chain as Graphviz source and as a picture (SVG).

The SVG is drawn here and not by Graphviz: a chain is a stack of boxes, and
an operator's machine need not have ``dot`` for it.  Names are escaped; the
output refers to nothing outside itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from assisted_snapshots.chain.value import Layer
from assisted_snapshots.cli.units import human
from assisted_snapshots.cli.view import ChainView

_BOX = 400
_HIGH = 46
_STEP = 76
_LEFT = 20
_CHAR = 7.3


def _facts(layer: Layer) -> str:
    luks = ' (LUKS)' if layer.encrypted else ''
    return (f'{layer.format}{luks}, {human(layer.virtual_size)}, '
            f'{human(layer.allocated)} used')


def dot(view: ChainView) -> str:
    """Return Graphviz source: the active layer on top, arrows to backing."""
    return '\n'.join(_dot(view)) + '\n'


def _dot(view: ChainView) -> Iterator[str]:
    yield f'digraph {_quote(view.state.volume)} {{'
    yield '  rankdir=TB;'
    yield '  node [shape=box, style=rounded, fontname="sans-serif"];'
    active = view.state.chain.active
    if view.attachment is not None:
        guest = _quote(str(view.attachment))
        yield f'  guest [shape=oval, label={guest}];'
        yield f'  guest -> {_quote(active.name)};'
    for index, layer in reversed(list(enumerate(view.state.chain.layers))):
        label = _quote(layer.name, _facts(layer))
        bold = ', penwidth=2' if layer is active else ''
        yield f'  {_quote(layer.name)} [label={label}{bold}];'
        if layer.backing is not None:
            yield f'  {_quote(layer.name)} -> {_quote(layer.backing)};'
        snapshot = view.snapshot_above(index)
        if snapshot is not None:
            node = _quote('snapshot ' + snapshot)
            yield f'  {node} [shape=note, label={node}];'
            yield f'  {node} -> {_quote(layer.name)} [style=dashed];'
            yield f'  {{ rank=same; {node}; {_quote(layer.name)}; }}'
    yield '}'


def _quote(*lines: str) -> str:
    escaped = (line.replace('\\', '\\\\').replace('"', '\\"')
               for line in lines)
    return '"' + '\\n'.join(escaped) + '"'


def svg(view: ChainView) -> str:
    """Return the picture: the active layer on top, the base at the foot."""
    layers = view.state.chain.layers
    widest = max(len(n) for n in view.state.chain.names)
    box = max(_BOX, int(widest * _CHAR) + 24)
    tags = max((len(s) for s in view.state.snapshots), default=0)
    width = _LEFT * 2 + box + (int((tags + 11) * _CHAR) + 40 if tags else 0)
    top = 88
    height = top + _STEP * len(layers)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<title>{escape(view.state.volume)}</title>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_heading(view)]
    for row, index in enumerate(reversed(range(len(layers)))):
        parts += _box(view, index, top + row * _STEP, box)
    parts.append('</svg>')
    return '\n'.join(parts) + '\n'


def _heading(view: ChainView) -> Iterator[str]:
    chain = view.state.chain
    yield _text(_LEFT, 30, view.state.volume, size=16, weight='bold')
    yield _text(_LEFT, 50, f'{human(chain.virtual_size)}, '
                f'{human(chain.allocated)} on the share', fill='#555555')
    if view.attachment is not None:
        yield _text(_LEFT, 68, f'in use by {view.attachment}',
                    fill='#555555')


def _box(view: ChainView, index: int, y: int, box: int) -> Iterator[str]:
    layer = view.state.chain.layers[index]
    active = layer is view.state.chain.active
    fill, line = ('#e3f4e3', '#2e7d32') if active else ('#eef2f7', '#5b6b7f')
    yield (f'<rect x="{_LEFT}" y="{y}" width="{box}" height="{_HIGH}" '
           f'rx="6" fill="{fill}" stroke="{line}" '
           f'stroke-width="{2 if active else 1}"/>')
    yield _text(_LEFT + 12, y + 19, layer.name, weight='bold')
    yield _text(_LEFT + 12, y + 36, _facts(layer)
                + (', active' if active else ''), fill='#555555')
    if layer.backing is not None:
        x, below = _LEFT + 28, y + _HIGH
        yield (f'<path d="M{x} {below} V{y + _STEP - 4} m-4 -6 l4 6 l4 -6" '
               f'fill="none" stroke="{line}"/>')
    snapshot = view.snapshot_above(index)
    if snapshot is not None:
        x, middle = _LEFT + box, y + _HIGH // 2
        yield (f'<path d="M{x + 30} {middle} H{x + 3} m6 -4 l-6 4 l6 4" '
               'fill="none" stroke="#b07d00" stroke-dasharray="4 2"/>')
        yield _text(x + 36, middle + 4, f'snapshot {snapshot}',
                    fill='#8a6200')


def _text(x: int, y: int, text: str, *, size: int = 12,
          weight: str = 'normal', fill: str = '#1b1f24') -> str:
    return (f'<text x="{x}" y="{y}" font-size="{size}" '
            f'font-weight="{weight}" fill="{fill}">{escape(text)}</text>')
