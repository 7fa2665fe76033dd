"""Text from models, files and corpora inside Markdown: shown as it is, obeyed nowhere."""

from __future__ import annotations

import re

_MOST = 80  # characters of a name or token that are shown


def text(value) -> str:
    """One line of Markdown that shows this text: no markup, no HTML, no table cell, no link, no comment.

    A character reference is never structure (CommonMark 0.31, section 6.2), so everything that could be stands as one.
    """
    shown = printable(value)
    kept = re.compile(r"[\w ]|(?<=\w)[.\-/+](?=\w)|(?<=\w),")
    result = []
    for i, character in enumerate(shown):
        plain = kept.match(shown, i) is not None
        if character == "_":  # inside a word it opens no emphasis
            plain = 0 < i < len(shown) - 1 and shown[i - 1].isalnum() and shown[i + 1].isalnum()
        if character == "." and shown[max(0, i - 3) : i].lower() == "www":  # GitHub makes a link of it
            plain = False
        result.append(character if plain else f"&#{ord(character)};")
    return "".join(result)


def printable(value) -> str:
    """The text on one line, of printable characters, cut to 80."""
    whole = str(value)
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in whole[:_MOST])
    return shown + ("…" if len(whole) > _MOST else "")


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are Markdown already; all columns but the first to the right."""
    lines = [headings, ["---"] + ["--:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
