"""The card's section in a file, between markers: written again in place, every other byte as it was."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from maxact_kernels.storage import write_atomically

from .card import PICTURE, section
from .card_picture import MARK, picture
from .markdown import printable
from .run import Run

BEGIN, END = b"<!-- maxact:begin -->", b"<!-- maxact:end -->"
META_BEGIN, META_END = b"# maxact:begin", b"# maxact:end"
_BOM = b"\xef\xbb\xbf"


def contents(run: Run, before: bytes, model_index: bool, picture: str | None = None) -> bytes:
    """A card that was `before`, with what it says of this run."""
    after = with_section(before, section(run, picture))
    return with_metadata(after, metadata(run)) if model_index else after


def write_card(run: Run, path: Path, model_index: bool) -> list[Path]:
    """Write the section into a card, and the picture beside it if there is one to draw; the paths of what was written.

    Raises OSError, ValueError or FileExistsError, with the path, before anything is changed.
    """
    before = path.read_bytes() if path.exists() else b""
    svg, beside = picture(run), path.with_name(PICTURE)
    if svg and beside.exists() and MARK.encode() not in beside.read_bytes()[:1000]:
        raise FileExistsError(f"{beside}: exists and is not a picture that maxact card made; move it")
    try:
        after = contents(run, before, model_index, PICTURE if svg else None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if svg:
        _replace(beside, svg.encode())
    _replace(path, after)
    return [path, beside] if svg else [path]


def with_section(before: bytes, section: str) -> bytes:
    """The file with this section: in place of the one that is there, else after all that is there.

    Raises ValueError if the markers are not one pair in order.
    """
    newline = _newline(before)
    body = newline.join([BEGIN, *section.encode().split(b"\n"), END])
    place = _between(before, BEGIN, END)
    if place:
        return before[: place[0]] + body + before[place[1] :]
    gap = b"" if not before else newline if before.endswith(newline) else newline * 2
    return before + gap + body + newline


def with_metadata(before: bytes, lines: list[str]) -> bytes:
    """The file with these lines in its YAML front matter, which is made if there is none.

    Raises ValueError if the front matter does not end, or has a model-index that is not between our markers.
    """
    newline = _newline(before)
    block = newline.join([META_BEGIN, *(line.encode() for line in lines), META_END]) + newline
    front = re.match(rb"(\xef\xbb\xbf)?---[ \t]*\r?\n", before)
    if not front:
        bom = _BOM if before.startswith(_BOM) else b""
        return bom + b"---" + newline + block + b"---" + newline + before[len(bom) :]
    end = re.compile(rb"^---[ \t]*\r?$", re.MULTILINE).search(before, front.end())
    if not end:
        raise ValueError("its front matter begins with --- and has no second ---")
    head, rest = before[: end.start()], before[end.start() :]
    place = _between(head, META_BEGIN, META_END)
    if place:
        after = re.match(rb"\r?\n", head[place[1] :])
        return head[: place[0]] + block + head[place[1] + (after.end() if after else 0) :] + rest
    if re.search(rb"^[\"']?model-index[\"']?[ \t]*:", head, re.MULTILINE):
        raise ValueError("its metadata has a model-index of its own; add the lines that --model-index prints by hand")
    return head + block + rest


def metadata(run: Run) -> list[str]:
    """The model-index of the hub (which calls it legacy) as lines of YAML; every string is a JSON string."""
    corpus = run.provenance.get("corpus", {})
    n_tokens = run.provenance.get("n_tokens")
    results = {
        "name": _name(run.provenance.get("model", {}).get("model_id"), "model"),
        "results": [
            {
                "task": {"type": "text-generation"},
                "dataset": {"name": _name(corpus.get("name"), "corpus"), "type": _name(corpus.get("name"), "corpus")},
                "metrics": [
                    {
                        "type": "max_activation",
                        "value": run.M,
                        "name": "M = max |activation|"
                        + (f" over {n_tokens} tokens" if isinstance(n_tokens, int) else ""),
                    }
                ],
            }
        ],
    }
    return ["model-index:", f"- {json.dumps(results, ensure_ascii=False)}"]


def _replace(path: Path, data: bytes) -> None:
    """Replace a file, or what a link leads to, at once; its permissions stay. Raises OSError."""
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    write_atomically(target, data)
    if mode is not None:
        os.chmod(target, mode)


def _between(text: bytes, begin: bytes, end: bytes) -> tuple[int, int] | None:
    """From the first byte of the one line `begin` to the last of the one line `end`; None if there is neither."""
    starts, stops = (list(re.finditer(rb"^%s(?=[ \t]*\r?$)" % re.escape(m), text, re.MULTILINE)) for m in (begin, end))
    if not starts and not stops:
        return None
    if len(starts) != 1 or len(stops) != 1 or stops[0].start() < starts[0].start():
        raise ValueError(
            f"expected one line {begin.decode()} and after it one {end.decode()}, found {len(starts)} and {len(stops)}; "
            "take out what is too much"
        )
    return starts[0].start(), stops[0].end()


def _newline(text: bytes) -> bytes:
    return b"\r\n" if b"\r\n" in text else b"\n"


def _name(value, otherwise: str) -> str:
    return printable(value) if isinstance(value, str) and value else otherwise
