"""`maxact report`: runs as one page that explains itself, holds all it needs and asks nothing of a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from importlib import resources
from pathlib import Path

from maxact_kernels.storage import write_atomically

from .published import checkpoints
from .report_data import runs_data
from .run import Run

# In this order; each file may use what those before it define.
SCRIPTS = (
    "words data quantizer link draw marks explorer "
    "landscape trajectories sun pairs quantization sweep map site experts stability main"
).split()


def write_report(paths: list[Path], output: str | os.PathLike) -> int:
    """Write the page on these run directories; its size in bytes. Raises OSError, or ValueError with what is wrong."""
    data = page([(label, Run.load(path)) for label, path in zip(_labels(paths), paths)]).encode()
    write_atomically(output, data)
    return len(data)


def page(runs: list[tuple[str, Run]]) -> str:
    """The HTML page on runs by label. Raises ValueError if a run's tables contradict each other."""
    here = resources.files(__package__) / "report_page"
    style = (here / "page.css").read_text("utf-8")
    script = "\n".join((here / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    parts = {
        "style": style,
        "style_hash": _source_hash(style),
        "script": script,
        "script_hash": _source_hash(script),
        "data": script_json(runs_data(runs) | {"published": [row._asdict() for row in checkpoints()]}),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], (here / "page.html").read_text("utf-8"))


def script_json(value) -> str:
    """JSON that stays data inside a script element of a page, whatever its strings say."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda char: f"\\u{ord(char[0]):04x}", text)


def _source_hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _labels(paths: list[Path]) -> list[str]:
    """The directories' own names; with that of their parent where two have the same."""
    paths = [Path(path).resolve() for path in paths]
    names = [path.name for path in paths]
    return [name if names.count(name) == 1 else f"{path.parent.name}/{name}" for path, name in zip(paths, names)]
