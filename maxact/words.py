"""Numbers, shares and text as a terminal and Markdown show them: the same words for the same things."""

from __future__ import annotations

import math
import re

PARTIAL = "the measurement was interrupted, or shards are missing; this is not the whole corpus"


def number(value) -> str:
    """A count or a magnitude for people: 24,929 · 3.062 · 0.000122."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return safe(value)


def counted(count: int, what: str) -> str:
    """1 site · 2,048 sites"""
    return f"{number(count)} {what}{'' if count == 1 else 's'}"


def percent(share: float | None, digits: str = ".1f") -> str:
    return "–" if share is None or math.isnan(share) else f"{100 * share:{digits}} %"


def decibel(value: float) -> str:
    return "–" if math.isnan(value) else f"{round(value, 1) + 0.0:.1f}"  # no -0.0


def times(factor: float) -> str:
    """2.43x · 5,338x"""
    return f"{factor:.3g}x" if factor < 999.5 else f"{number(factor)}x"


def room(value: float, limit: float) -> str:
    """How far a value is below a limit or over it, as a factor."""
    if value <= limit:
        return f"{times(limit / value)} below" if value else "all zero"
    return f"{times(value / limit)} over"


def ranges(names: list[str]) -> str:
    """layer_11_hidden … layer_27_hidden (17 sites)"""
    if len(names) <= 2:
        return " and ".join(safe(name) for name in names)
    return f"{safe(names[0])} … {safe(names[-1])} ({len(names)} sites)"


def safe(value) -> str:
    """Text from a model, a file or a corpus, so that a terminal shows it and obeys none of it; cut to 80 characters."""
    text = str(value)
    if re.fullmatch(r"[\w./:+@ -]{1,80}", text, re.ASCII) and text == text.strip():
        return text
    shown = repr(text[:80])
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown) + ("…" if len(text) > 80 else "")
