"""A run within its limits passes with what room is left; one over them exits 1 and names site, tokens and channels."""

import json
import math
import re

import pytest
import torch
from commands import maxact
from small_runs import HOSTILE, noise, run_of, with_peak

from maxact.check import Quantizer, check, is_projection_input
from maxact.limits import LIMITS, limit_of
from maxact.run import Run, Sites
from maxact.sites import KINDS
from maxact_kernels import fused_probe
from maxact_kernels.storage import Arrays


def judge(run, *limits, **rest):
    """The last verdict."""
    return check(run, list(limits), **rest)[-1]


@pytest.mark.parametrize(("name", "limit"), [("fp16", 65504), ("e4m3", 448), ("e5m2", 57344), ("12.5", 12.5)])
def test_the_largest_value_of_a_format_is_within_it_and_the_next_is_not(name, limit):
    dtype = torch.float32
    above = torch.nextafter(torch.tensor(float(limit)), torch.tensor(math.inf)).item()
    assert not judge(run_of({"layer_0_hidden": with_peak(-float(limit), dtype=dtype)}), name).failures
    (failure,) = judge(run_of({"layer_0_hidden": with_peak(-above, dtype=dtype)}), name).failures
    assert failure.figures["absmax"] == above and failure.channels == [5]


def test_fp16_square_is_where_the_square_leaves_fp16():
    assert limit_of("fp16-square") ** 2 == pytest.approx(65504, rel=1e-15)
    for value, n in ((255.0, 0), (256.0, 1)):  # neighbours in bfloat16: 255^2 = 65,025, 256^2 = 65,536
        assert torch.tensor(value).half().square().isinf().item() == bool(n)
        assert len(judge(run_of({"layer_0_hidden": with_peak(value)}), "fp16-square").failures) == n


def test_fp16_square_judges_what_norms_read_unless_sites_are_named():
    run = run_of({"layer_0_mlp_act": with_peak(900.0), "layer_0_mlp_output": noise(), "layer_0_hidden": noise()})
    verdict = judge(run, "fp16-square")
    assert (verdict.n_sites, verdict.failures) == (2, [])
    assert [f.site for f in judge(run, "fp16-square", patterns=["*_act"]).failures] == ["layer_0_mlp_act"]
    with pytest.raises(ValueError, match="^fp16-square: this run has none of the sites that norms read"):
        judge(run_of({"layer_0_mlp_act": noise()}), "fp16-square")


def test_a_failure_names_every_channel_and_the_kept_tokens():
    x = noise(d=32)
    x[1, 2, 5], x[1, 2, 7], x[2, 0, 5], x[0, 3, 30] = 500.0, -600.0, 450.0, 448.0
    (failure,) = judge(run_of({"layer_0_hidden": x}, token_text={"1:2": {"id": 1, "text": "of"}}), "e4m3").failures
    assert failure.channels == [7, 5] and failure.figures["n_elements_over"] == 3
    assert failure.figures["times_over"] == 600 / 448
    assert failure.elements == [
        {"value": -600.0, "sample": 1, "position": 2, "feature": 7, "text": "of"},
        {"value": 500.0, "sample": 1, "position": 2, "feature": 5, "text": "of"},
        {"value": 450.0, "sample": 2, "position": 0, "feature": 5, "text": None},
    ]


def test_channels_are_all_named_where_the_kept_elements_end():
    x = torch.full((1, 2, 40), 1000.0)
    (failure,) = judge(run_of({"layer_0_hidden": x}), "e4m3").failures
    assert failure.channels == list(range(40)) and len(failure.elements) == 9
    assert failure.figures["n_elements_over"] is None  # of float32 not known exactly


def test_the_headroom_is_that_of_the_closest_site():
    verdict = judge(run_of({"layer_0_hidden": with_peak(64.0), "layer_1_hidden": with_peak(224.0)}), "e4m3")
    assert (verdict.closest, verdict.headroom) == ("layer_1_hidden", 2.0)
    assert "the closest layer_1_hidden at 224, 2x below" in verdict.says
    zeros = judge(run_of({"layer_0_hidden": torch.zeros(1, 2, 8)}), "e4m3")
    assert (zeros.failures, zeros.headroom) == ([], None) and "no value other than 0 in 1 site" in zeros.says


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_fails_every_check_with_its_place(bad):
    run = run_of({"layer_0_hidden": noise(), "layer_1_moe_gate": with_peak(bad)})
    finite, within = check(run, ["fp16"])
    (failure,) = finite.failures
    assert (failure.site, failure.rule) == ("layer_1_moe_gate", "finite") and not within.failures
    assert failure.elements == [{"value": None, "sample": 1, "position": 2, "feature": 5, "text": None}]
    assert failure.channels == [5]


def test_a_site_that_saw_nothing_does_not_pass():
    finite = check(run_of({"layer_0_hidden": noise(), "layer_1_hidden": noise(n_positions=0)}), ["fp16"])[0]
    assert [(f.site, f.rule) for f in finite.failures] == [("layer_1_hidden", "measured")]


def test_a_run_without_sites_does_not_pass():
    with pytest.raises(ValueError, match="no site, so there is nothing to check"):
        check(run_of({}), ["fp16"])


def test_sqnr_is_judged_at_the_inputs_of_projections_with_what_stands_beside_it():
    run = run_of(
        {
            "layer_0_hidden": with_peak(9000.0),
            "layer_0_mlp_act": with_peak(60.0),
            "layer_0_o_input": torch.ones(1, 2, 8),
        }
    )
    verdict = judge(run, sqnr_db=45.0)
    summary = run.sites["layer_0_mlp_act"]
    error = summary.quantization_error("int8", "max")
    (failure,) = verdict.failures
    assert verdict.n_sites == 2 and failure.site == "layer_0_mlp_act"
    assert failure.figures == {
        "sqnr_db": error.sqnr_db,
        "sqnr_db_least": error.sqnr_db,
        "zeroed": error.zeroed,
        "clip_rate": 0.0,
        "int8_per_token_db": summary.int8_per_token.sqnr_db,
        "absmax": 60.0,
        "absmax_by_rms": 60.0 / summary.rms,
    }
    assert failure.elements[0] == {"value": 60.0, "sample": 1, "position": 2, "feature": 5, "text": None}
    assert not judge(run, sqnr_db=error.sqnr_db).failures  # exactly what it has is enough
    assert judge(run, sqnr_db=error.sqnr_db).headroom == 0.0


def test_every_kind_that_stands_at_an_input_counts_as_one():
    for kind in KINDS:
        assert is_projection_input(kind.site.format(i=7)) is (kind.end == "input"), kind.site
    assert is_projection_input("layer_7_experts_act")


def test_without_inputs_of_projections_sqnr_is_judged_everywhere_but_at_routers():
    run = run_of({"layer_0_hidden": noise(), "layer_0_moe_gate": noise(), "final_layernorm": noise()})
    assert judge(run, sqnr_db=1.0).n_sites == 2
    assert judge(run, sqnr_db=1.0, patterns=["*moe*"]).n_sites == 1


def test_the_quantizer_is_that_which_was_asked_for():
    run = run_of({"layer_0_mlp_act": with_peak(60.0)})
    summary = run.sites["layer_0_mlp_act"]
    for fmt, threshold in (("int4", "max"), ("fp8_e4m3", "q0.9"), ("int8", "mse"), ("int8", 3.5)):
        expected = summary.quantization_error(fmt, threshold).sqnr_db
        verdict = judge(run, sqnr_db=99.0, quantizer=Quantizer(fmt, threshold))
        assert verdict.failures[0].figures["sqnr_db"] == expected
    per_token = judge(run, sqnr_db=99.0, quantizer=Quantizer("int8", "per-token")).failures[0].figures
    assert per_token["sqnr_db"] == summary.int8_per_token.sqnr_db and per_token["zeroed"] is None
    with pytest.raises(ValueError, match="'int4' per token, expected int8"):
        judge(run, sqnr_db=1.0, quantizer=Quantizer("int4", "per-token"))


def test_of_float32_the_least_that_the_sqnr_can_be_is_judged():
    run = run_of({"layer_0_mlp_act": with_peak(60.0, dtype=torch.float32)})
    error = run.sites["layer_0_mlp_act"].quantization_error("int8")
    least, most = error.sqnr_db_bounds
    assert least < error.sqnr_db < most
    assert not judge(run, sqnr_db=least).failures
    (failure,) = judge(run, sqnr_db=(least + error.sqnr_db) / 2).failures
    assert (failure.figures["sqnr_db"], failure.figures["sqnr_db_least"]) == (error.sqnr_db, least)


def test_what_an_expert_computes_is_named_with_the_expert_where_its_token_has_no_name():
    row = (3 << 32) | (0xFFFF << 16) | 0xFFFF  # expert 3, a sample and position beyond what its row can name
    state = fused_probe(torch.linspace(500, 451, 8)[None].bfloat16(), token_ids=torch.tensor([row]), n_samples=4)
    run = Run(Sites({"layer_0_experts_act": (state.options, Arrays(state.host_arrays()))}), {})
    (failure,) = judge(run, "e4m3").failures
    place = {"sample": None, "position": None, "feature": 0, "value": 500.0, "expert": 3, "text": None}
    assert failure.elements[0] == place and failure.channels == list(range(8))
    assert judge(run, sqnr_db=99.0).failures[0].elements[0] == place


@pytest.fixture
def run_directory(tmp_path):
    run = run_of(
        {"layer_0_hidden": with_peak(300.0), "layer_0_mlp_act": with_peak(90.0)},
        token_text={"1:2": {"id": 1, "text": HOSTILE}},
    )
    run.save(tmp_path / "r")
    return tmp_path / "r"


def test_the_command_exits_0_with_headroom_and_1_with_the_sites(run_directory, capsys):
    out, _ = maxact("check", run_directory, "--limit", "fp16", "--limit", "e4m3", "--sqnr", "5", capsys=capsys)
    assert out.count("ok  ") == 4 and "FAIL" not in out and "218x below" in out
    assert re.search(r"the least layer_0_mlp_act with [\d.]+ dB \(INT-8 per token [\d.]+ dB, [\d.]+ % zeroed, M / rms 13", out)
    out, _ = maxact("check", run_directory, "--limit", "fp16-square", code=1, capsys=capsys)
    assert "FAIL  fp16-square: |x| ≤ 255.9: 1 of 1 site over it." in out
    assert "layer_0_hidden" in out and "1:2" in out and "\x1b" not in out and "\u202e" not in out
    out, _ = maxact("check", run_directory, "--sqnr", "40", code=1, capsys=capsys)
    assert "layer_0_mlp_act" in out and "per token" in out and "zeroed" in out and "M / rms" in out


def test_of_what_is_not_finite_the_first_channel_and_token_are_named(tmp_path, capsys):
    run_of({"layer_0_hidden": with_peak(math.nan), "layer_1_hidden": noise(n_positions=0)}).save(tmp_path / "r")
    out, _ = maxact("check", tmp_path / "r", "--limit", "fp16", code=1, capsys=capsys)
    assert re.search(r"layer_0_hidden +1 nan, 0 inf +5 +1:2 ", out) and "first in channel" in out
    assert "layer_1_hidden   no element was measured" in out and "elements" not in out.replace("no element", "")


def test_json_says_what_the_exit_code_says(run_directory, capsys):
    passed = json.loads(maxact("check", run_directory, "--limit", "fp16", "--json", capsys=capsys)[0])
    assert passed["passed"] is True and passed["rules"][1]["headroom"] == LIMITS["fp16"] / 300
    failed = json.loads(maxact("check", run_directory, "--limit", "200", "--json", code=1, capsys=capsys)[0])
    assert failed["passed"] is False
    (failure,) = failed["rules"][1]["failures"]
    assert failure["channels"] == [5] and failure["elements"][0]["text"] == HOSTILE


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "name what to check: --limit, --sqnr, or both"),
        (["--limit", "fp17"], "limit: 'fp17', expected fp16, fp16-square, e4m3, e5m2 or a positive number"),
        (["--limit", "-1"], "limit: '-1', expected"),
        (["--limit", "nan"], "limit: 'nan', expected"),
        (["--sqnr", "nan"], "sqnr: nan, expected a finite number of dB"),
        (["--sqnr", "9", "--format", "int99"], "'int99', expected int2 to int16, fp8_e4m3 or fp8_e5m2"),
        (["--sqnr", "9", "--threshold", "most"], "threshold: 'most', expected"),
        (["--limit", "fp16", "--sites", "layer_9_*"], "sites: 'layer_9_*' matches no site of this run"),
    ],
)
def test_what_cannot_be_checked_is_bad_usage_not_a_pass(args, sentence, run_directory, capsys):
    _, err = maxact("check", run_directory, *args, code=2, capsys=capsys)
    assert sentence in err
