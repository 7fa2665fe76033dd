"""Two runs side by side: every site that both have, in factors, the largest change first."""

import io
import json
import math

import pytest
import torch
from commands import maxact
from rich.console import Console
from small_runs import HOSTILE, noise, run_of, with_peak

from maxact.compare import compare, describe, factor_text, sentence


@pytest.fixture
def pair():
    a = {"embedding_output": noise(), "layer_0_hidden": with_peak(100.0), "layer_1_hidden": with_peak(64.0)}
    b = {"embedding_output": noise(), "layer_0_hidden": with_peak(-300.0, (0, 1, 3)), "layer_1_hidden": with_peak(8.0)}
    a["layer_2_mlp_act"], b["layer_2_hidden"] = noise(), noise()
    return run_of(a), run_of(b)


def test_sites_stand_in_the_order_of_their_factor_up_or_down(pair):
    found = compare(*pair)
    assert [(c.site, c.factor) for c in found.changes] == [
        ("layer_1_hidden", 0.125),
        ("layer_0_hidden", 3.0),
        ("embedding_output", 1.0),
    ]
    assert (found.only_a, found.only_b) == (["layer_2_mlp_act"], ["layer_2_hidden"])
    assert found.M == (100.0, 300.0)
    change = found.changes[1]
    assert [place[1:5] for place in change.places] == [(1, 2, 5, 100.0), (0, 1, 3, -300.0)]
    assert [c.identical for c in found.changes] == [False, False, True]


def test_the_other_way_round_every_factor_is_its_inverse(pair):
    there, back = compare(*pair), compare(*reversed(pair))
    assert [c.site for c in there.changes] == [c.site for c in back.changes]
    for one, other in zip(there.changes, back.changes):
        assert one.factor * other.factor == pytest.approx(1, rel=1e-15)
        assert one.q999_factor * other.q999_factor == pytest.approx(1, rel=1e-15)


def test_the_sentence_says_m_and_how_many_sites_changed(pair):
    assert sentence(compare(*pair)) == (
        "M goes from 100 to 300 (3x); of 3 sites the absmax grew in 1, fell in 1, stayed in 1. "
        "The largest change: layer_1_hidden, 64 to 8 (0.125x)."
    )
    assert (
        sentence(compare(pair[0], pair[0])) == "M is 100 in both; the same to the last bit of every table in 4 sites."
    )
    assert "share no site" in sentence(compare(run_of({"layer_0_hidden": noise()}), run_of({"x": noise()})))


def test_equal_maxima_over_other_values_are_not_called_identical():
    a, b = run_of({"layer_0_hidden": with_peak(9.0)}), run_of({"layer_0_hidden": with_peak(9.0, seed=1)})
    (change,) = compare(a, b).changes
    assert change.factor == 1 and not change.identical
    assert sentence(compare(a, b)).endswith("stayed in 1.")


def test_zeros_and_sites_without_a_finite_element_have_no_false_factor():
    empty = torch.full((1, 2, 8), math.nan).bfloat16()
    a = run_of({"layer_0_hidden": torch.zeros(1, 2, 8), "layer_1_hidden": empty, "layer_2_hidden": noise()})
    b = run_of({"layer_0_hidden": torch.ones(1, 2, 8), "layer_1_hidden": noise(), "layer_2_hidden": noise()})
    factors = {c.site: c.factor for c in compare(a, b).changes}
    assert factors["layer_0_hidden"] == math.inf and math.isnan(factors["layer_1_hidden"])
    assert list(factors)[-1] == "layer_2_hidden"
    assert compare(a, b).changes[1].n_nonfinite == (16, 0)
    assert "has no value in one run in 1." in sentence(compare(a, b))


def test_runs_without_counts_compare_by_their_maxima():
    a, b = (run_of({"layer_0_hidden": with_peak(v)}, dict(counts=False)) for v in (10.0, 20.0))
    (change,) = compare(a, b).changes
    assert change.factor == 2 and math.isnan(change.q999_factor)


def test_what_was_measured_otherwise_is_said():
    a = run_of({"layer_0_hidden": noise()}, corpus={"name": "builtin", "bos": False}, model={"dtype": "float16"})
    b = run_of({"layer_0_hidden": noise()}, corpus={"name": "builtin", "bos": True}, model={"dtype": "float16"})
    assert compare(a, b).conditions == {"corpus bos": (False, True)}


def test_a_factor_close_to_one_is_not_shown_as_one():
    assert [factor_text(f) for f in (1.0, 1.0004, 1.0046, 0.9954, 0.125, 24.04, 1234.5, math.inf, math.nan)] == [
        "the same", "1.0004x", "1.005x", "0.995x", "0.125x", "24x", "1,234x", "from zero", "no factor"
    ]  # fmt: skip


def test_a_channel_is_written_as_a_name_and_not_as_a_count():
    a, b = run_of({"x": with_peak(9.0, (0, 0, 1234), d=2000)}), run_of({"x": with_peak(8.0, (0, 0, 5), d=2000)})
    console = Console(width=200, file=io.StringIO())
    for part in describe(compare(a, b), None):
        console.print(part)
    assert " 1234 → 5 " in console.file.getvalue()


def test_the_command_prints_the_changed_sites_and_json_holds_all(pair, tmp_path, capsys):
    pair[1].provenance["model"] = {"model_id": HOSTILE}
    for run, name in zip(pair, "ab"):
        run.save(tmp_path / name)
    out, _ = maxact("compare", tmp_path / "a", tmp_path / "b", "--top", 1, capsys=capsys)
    assert out.startswith("M goes from 100 to 300 (3x)") and "64 → 8" in out and "100 → 300" not in out
    assert "… and 1 that changed less" in out and "\x1b" not in out and "\u202e" not in out
    assert "Only in the first: layer_2_mlp_act." in out and "Only in the second: layer_2_hidden." in out
    record = json.loads(maxact("compare", tmp_path / "a", tmp_path / "b", "--json", capsys=capsys)[0])
    assert [c["factor"] for c in record["changes"]] == [0.125, 3.0, 1.0] and record["sentence"] in out
    assert record["changes"][1]["places"][1] == {"sample": 0, "position": 1, "feature": 3, "value": -300.0}
    out, _ = maxact("compare", tmp_path / "a", tmp_path / "a", capsys=capsys)
    assert out == "M is 100 in both; the same to the last bit of every table in 4 sites.\n"


def test_partial_runs_are_named_even_where_both_are(pair):
    for run in pair:
        run.provenance["partial"] = True
    said = [part for part in describe(compare(*pair), None) if isinstance(part, str)]
    assert [sentence[:20] for sentence in said if "PARTIAL" in sentence] == ["PARTIAL, the first: ", "PARTIAL, the second:"]
