"""absmax of each layer against depth as a small SVG: no script, no font, no link; readable on light and dark pages."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from .limits import LIMITS
from .run import Run, site_kind, site_layer
from .words import number

MARK = "<!-- made by maxact card -->"  # what a later card may write over
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 260, 64, 96, 16, 36
_LINES = {
    "hidden": ("#3b7dd8", 2.5),
    "mlp_output": ("#d9822b", 1.2),
    "attn_output": ("#3a9d5d", 1.2),
    "mlp_act": ("#b0509f", 1.2),
    "experts_act": ("#9a7d0a", 1.2),
}


def picture(run: Run) -> str | None:
    """The SVG; None if no layer has a value at one of these kinds of sites."""
    curves = {kind: _curve(run, kind) for kind in _LINES}
    curves = {kind: curve for kind, curve in curves.items() if curve}
    if not curves:
        return None
    values = [value for curve in curves.values() for value in curve.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    deepest = max(1, *(layer for curve in curves.values() for layer in curve))

    def x(layer: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * layer / deepest

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - math.log10(value)) / (high - low)

    parts = []
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<path class="g" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(10.0**power)}</text>')
    for name in ("e4m3", "fp16"):
        if low <= math.log10(LIMITS[name]) <= high:
            at = y(LIMITS[name])
            parts.append(f'<path class="l" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{_WIDTH - _RIGHT + 6}" y="{at + 4:.1f}">{name} {number(LIMITS[name])}</text>')
    for layer in dict.fromkeys((0, deepest // 2, deepest)):
        parts.append(f'<text x="{x(layer):.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{layer}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT + 6}" y="{_HEIGHT - 20}">layer</text>')
    for i, (kind, curve) in enumerate(curves.items()):
        color, width = _LINES[kind]
        points = " ".join(f"{x(layer):.1f},{y(value):.1f}" for layer, value in curve.items())
        parts.append(f'<polyline fill="none" stroke="{color}" stroke-width="{width}" points="{points}"/>')
        parts.append(f'<text x="{_LEFT + 100 * i}" y="{_HEIGHT - 4}" style="fill:{color}">{kind}</text>')
    title = escape(f"Largest activation of each layer: M = {number(run.M)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-family="sans-serif" '
        f'font-size="11">{MARK}<title>{title}</title>'
        "<style>text{fill:#777}.g{stroke:#999;stroke-opacity:.3}.l{stroke:#c33;stroke-dasharray:4 3}</style>"
        + "".join(parts)
        + "</svg>\n"
    )


def _curve(run: Run, kind: str) -> dict[int, float]:
    """absmax by layer, where it has a logarithm."""
    curve = {site_layer(name): run.sites[name].absmax for name in run.sites if site_kind(name) == kind}
    return {layer: value for layer, value in sorted(curve.items()) if value > 0}
