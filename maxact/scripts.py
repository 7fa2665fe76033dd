"""Which writing systems a text is in, by the Script property of its letters (Unicode Standard Annex 24)."""

from __future__ import annotations

from functools import cache

import regex

_LETTER = regex.compile(r"\p{L}")


def script_share(text: str, script: str) -> float:
    """The share of a text's letters that are of a script (Han, Latin, Cyrillic ...); 0 for a text without letters."""
    n_letters = len(_LETTER.findall(text))
    return len(_letters_of(script).findall(text)) / n_letters if n_letters else 0.0


@cache
def _letters_of(script: str) -> regex.Pattern:
    if not script.replace("_", "").isalpha():
        raise ValueError(f"script: {script!r}, expected a name from Unicode such as Han or Cyrillic")
    try:
        return regex.compile(rf"(?V1)[\p{{L}}&&\p{{Script={script}}}]")
    except regex.error:
        raise ValueError(
            f"script: {script!r} is not a script of Unicode; names are such as Han, Latin, Cyrillic"
        ) from None
