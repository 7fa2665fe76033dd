"""A run shows itself in a line and in a notebook: small, escaped, with M and its place."""

import math
import re
from xml.etree import ElementTree

from small_runs import HOSTILE, noise, run_of, with_peak

from maxact.run import Run, Sites

KNOWN = dict(model={"model_id": "tiny", "dtype": "bfloat16"}, n_tokens=12, token_text={"1:2": {"id": 1, "text": "of"}})


def cells(run) -> list[list[str]]:
    return [[cell.text or "" for cell in row] for row in ElementTree.fromstring(run._repr_html_()).iter("tr")]


def test_the_line_names_the_model_and_m():
    run = run_of({"embedding_output": noise(), "layer_0_hidden": with_peak(-900.0)}, **KNOWN)
    assert repr(run) == "Run(tiny, bfloat16, 12 tokens, 2 sites, M = 900 at layer_0_hidden)"
    assert repr(Run(Sites({}), {})) == "Run(0 sites, M = –)"


def test_a_notebook_shows_a_row_a_kind_with_its_largest_site():
    bad = noise()
    bad[0, 0, 0], bad[0, 1, 1] = math.nan, math.inf
    run = run_of(
        {"layer_0_hidden": with_peak(9.0), "layer_1_hidden": with_peak(-900.0), "final_layernorm": bad}, **KNOWN
    )
    html = run._repr_html_()
    assert "<b>M = 900</b> at layer_1_hidden, channel 5, token <code>of</code> at position 2 of sample 1" in html
    assert "tiny · bfloat16 · 12 tokens · 3 sites" in html
    head, hidden, norm = cells(run)
    assert dict(zip(head, hidden)) | {"largest ratio": None} == {
        "kind": "hidden", "sites": "2", "absmax": "900", "at": "layer_1_hidden", "largest ratio": None,
        "massive tokens": "1", "nan or inf": "none",
    }  # fmt: skip
    assert norm[-1] == "2"


def test_a_hostile_run_makes_no_markup_and_stays_small():
    run = run_of({f"layer_{i}_hidden": with_peak(9.0) for i in range(60)} | {"<b onclick=x>": noise()})
    run.provenance |= {"model": {"model_id": HOSTILE * 99, "dtype": HOSTILE}, "n_tokens": HOSTILE}
    run.provenance["token_text"] = {"1:2": {"id": 1, "text": HOSTILE}}
    html = run._repr_html_()
    tags = {"div", "b", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(re.findall(r"</?(\w+)", html)) == tags and not re.search(r"<\w+ ", html)
    assert len(html) < 4000 and "\x1b" not in html and "\u202e" not in html + repr(run)
    assert len(repr(run)) < 400 and repr(run).isprintable()


def test_a_run_without_sites_shows_that_there_are_none():
    assert "0 sites" in Run(Sites({}), {})._repr_html_()
