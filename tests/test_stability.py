"""Every figure of `stability` is that of all subsets, found here by going through them; unmeasured samples have no part."""

import itertools
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_cli import maxact

from maxact.proportion import proportional
from maxact.run import Run, Sites
from maxact.stability import (
    Subsets,
    all_subsets,
    bootstrap_interval,
    curve,
    exceeding_share,
    growth_per_doubling,
    halvings,
    measured_samples,
    paper_subsets,
    stability,
    subset_cdf,
    subset_weights,
)
from maxact_kernels import fused_probe
from maxact_kernels.storage import Arrays

VALUES = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 9.0])  # with ties, also at the top


@pytest.mark.parametrize("n", range(1, 9))
def test_the_curve_is_that_of_every_subset(n):
    largest = np.array([max(subset) for subset in itertools.combinations(VALUES, n)])
    (row,) = curve(VALUES, [Subsets(n, subset_weights(n, 8), subset_cdf(n, 8))])
    assert row["mean"] == pytest.approx(largest.mean(), rel=1e-14)
    assert row["cv"] == pytest.approx(largest.std() / largest.mean(), abs=1e-14)
    ordered = np.sort(largest)
    for q, value in row["quantiles"].items():  # the smallest value that a share q of the subsets does not exceed
        assert value == ordered[math.ceil(float(q) * len(ordered)) - 1]


def test_weights_are_binomials_also_where_those_overflow():
    for n, n_all in [(1, 1), (3, 7), (500, 1000), (5000, 5000)]:
        exact = [math.comb(k - 1, n - 1) / math.comb(n_all, n) for k in range(1, n_all + 1)]
        np.testing.assert_allclose(subset_weights(n, n_all), exact, rtol=1e-12)
        np.testing.assert_allclose(subset_cdf(n, n_all)[1:], np.cumsum(exact), rtol=1e-9, atol=1e-300)
        assert subset_cdf(n, n_all)[0] == 0
    assert subset_weights(500_000, 1_000_000).sum() == pytest.approx(1, rel=1e-12)


def test_the_curve_ends_at_the_maximum_itself():
    assert halvings(9) == [1, 2, 3, 5, 9] and halvings(1) == [1]
    assert curve(VALUES, all_subsets(8))[-1] == {
        "n": 8,
        "mean": 9.0,
        "cv": 0.0,
        "quantiles": dict.fromkeys(["0.05", "0.25", "0.5", "0.75", "0.95"], 9.0),
    }


def test_growth_is_against_the_mean_of_every_half():
    halves = [max(half) for half in itertools.combinations(VALUES, 4)]
    assert growth_per_doubling(VALUES) == pytest.approx(9 / np.mean(halves) - 1, rel=1e-14)
    assert growth_per_doubling(np.full(8, 7.0)) == 0
    assert growth_per_doubling(np.array([1.0])) is None


def test_the_bootstrap_interval_is_that_of_every_resample():
    values = np.array([2.0, 7.0, 3.0, 5.0])
    resamples = np.sort([max(r) for r in itertools.product(values, repeat=4)])
    for level in (0.95, 0.9, 0.5, 0.2):
        found = bootstrap_interval(values, level)
        for end, q in (("low", (1 - level) / 2), ("high", (1 + level) / 2)):
            assert found[end] == resamples[math.ceil(round(q * 256, 9)) - 1], (level, end)
        assert found["repeats_max"] == np.mean(resamples == 7)


def test_the_share_that_exceeds_is_one_that_n_samples_would_have_met():
    for n in (1, 10, 5000):
        assert (1 - exceeding_share(n)) ** n == pytest.approx(0.05)
    assert 5000 * exceeding_share(5000) == pytest.approx(3, rel=0.01)


def test_paper_subsets_are_all_those_in_the_proportions_of_the_domains():
    domain = np.array(["a", "b", "a", "b", "a", "a", "b", "a", "a", "b"])
    values = np.array([3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0, 2.5, 8.0])
    for row, quota in zip(paper_subsets(values, domain), [{"a": 1, "b": 1}, {"a": 2, "b": 2}]):
        parts = [itertools.combinations(values[domain == name], n) for name, n in quota.items()]
        largest = np.array([max(sum(subsets, ())) for subsets in itertools.product(*parts)])
        assert row["n"] == sum(quota.values())
        assert row["mean"] == pytest.approx(largest.mean(), rel=1e-14)
        assert row["cv"] == pytest.approx(largest.std() / largest.mean(), rel=1e-12)
        assert len(row["draws"]) == 5 and set(row["draws"]) <= set(largest)
        spread = max(row["draws"]) - min(row["draws"])
        assert row["range_over_mean"] == pytest.approx(spread / np.mean(row["draws"]))


def test_proportions_are_kept_to_the_sample():
    targets = dict(math=850, code=850, web=850, knowledge=850, chinese=400, minority=300, other=900)
    assert proportional(targets, 1000) == {name: count // 5 for name, count in targets.items()}
    assert proportional({"b": 1, "a": 1, "c": 1}, 2) == {"a": 1, "b": 1, "c": 0}
    assert sum(proportional({"a": 7, "b": 11, "c": 13}, 9).values()) == 9


def a_run(per_site: dict[str, list[float]], measured=None, domains="ab") -> Run:
    """Samples of one token each, whose |x| are given; of those in `measured` (default all)."""
    n_samples = len(next(iter(per_site.values())))
    measured = list(range(n_samples)) if measured is None else measured
    sites = {}
    for name, values in per_site.items():
        x = torch.tensor(values)[measured, None] * torch.tensor([0.5, -1.0])
        ids = torch.tensor(measured) << 32
        state = fused_probe(x, token_ids=ids, n_samples=n_samples, counts=False, medians=False)
        sites[name] = state.options, Arrays(state.host_arrays())
    samples = [{"index": i, "domain": domains[i % len(domains)], "n_tokens": 1} for i in measured]
    return Run(Sites(sites), {"partial": len(measured) < n_samples, "samples": samples})


def test_m_is_over_all_sites_but_routers_and_experts():
    run = a_run(
        {
            "layer_0_hidden": [1.0, 8.0, 3.0, 2.0],
            "layer_1_hidden": [6.0, 2.0, 2.0, 2.0],
            "layer_0_moe_gate": [99.0] * 4,
            "layer_0_router_logits": [98.0] * 4,
            "layer_0_experts_act": [50.0] * 4,
        }
    )
    found = stability(run)
    assert found["M"] == 8.0 and found["n_near"] == 1
    assert found["curve"][0]["mean"] == np.mean([6, 8, 3, 2])  # the largest over both sites, sample by sample
    assert list(found["sites"]) == ["layer_0_hidden", "layer_1_hidden"]
    assert found["sites"]["layer_1_hidden"]["absmax"] == 6.0
    alone = stability(run, ["layer_1_*"])
    assert alone["M"] == 6.0 and list(alone["sites"]) == ["layer_1_hidden"] and not alone["left_out"]
    assert found["sites"]["layer_1_hidden"]["curve"] == alone["curve"]
    assert [row["n"] for row in alone["curve"]] == [1, 2, 4] and alone["curve"][0]["mean"] == 3.0
    assert alone["curve"][1]["quantiles"] == {"0.05": 2.0, "0.25": 2.0, "0.5": 2.0, "0.75": 6.0, "0.95": 6.0}
    assert found["left_out"] == ["layer_0_experts_act"] and found["left_out_M"] == 50.0
    assert found["domains"]["a"] == {"n_samples": 2, "M": 6.0, "growth_per_doubling": pytest.approx(6 / 4.5 - 1)}
    assert found["domains"]["b"]["M"] == 8.0


def test_samples_that_were_not_measured_have_no_part():
    whole = {"layer_0_hidden": [5.0, 9.0, 0.0, 4.0, 7.0, 0.0]}
    partial = a_run(whole, measured=[0, 2, 3])  # sample 2 was measured, and is zero throughout
    found = stability(partial)
    assert measured_samples(partial).index.tolist() == [0, 2, 3]
    assert found["n_samples"] == 3 and found["M"] == 5.0
    assert found["curve"][0]["mean"] == 3.0
    partial.provenance.pop("samples")  # as in a run from attach
    assert [x.tolist() for x in measured_samples(partial)] == [[0, 2, 3], ["unlabelled"] * 3]


def test_the_verdict_says_saturated_or_by_how_much_it_grows():
    flat = stability(a_run({"layer_0_hidden": [100.0, 100, 99.5, 99.8, 20, 3]}))
    assert flat["saturated"] is True and flat["verdict"].startswith("Saturated")
    assert "4 of 6 samples reach 99 % of M" in flat["verdict"]
    steep = stability(a_run({"layer_0_hidden": [100.0, 50.0, 50.0, 50.0]}))
    assert steep["saturated"] is False and steep["growth_per_doubling"] == pytest.approx(1 / 3)
    assert "from 2 to 4 samples the expected M grows by 33.33 %" in steep["verdict"]


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ([{"index": 9, "domain": "a"}], "index of 0 to 3"),
        ([{"index": True, "domain": "a"}], "index of 0 to 3"),
        ([{"index": 0, "domain": 5}], "with a domain"),
        ({"index": 0}, "list of objects"),
    ],
)
def test_a_list_of_samples_that_does_not_fit_is_refused(samples, sentence):
    run = a_run({"layer_0_hidden": [1.0, 2.0, 3.0, 4.0]})
    run.provenance["samples"] = samples
    with pytest.raises(ValueError, match=sentence):
        stability(run)


def test_a_pattern_without_a_site_that_knows_samples_is_refused():
    run = a_run({"layer_0_hidden": [1.0, 2.0], "layer_0_moe_gate": [3.0, 4.0]})
    for pattern in ("layer_9_*", "layer_0_moe_gate"):
        with pytest.raises(ValueError, match=f"sites: '{re.escape(pattern)}' matches no site"):
            stability(run, [pattern])


def test_one_sample_is_too_few():
    with pytest.raises(ValueError, match="measured 1 samples, expected at least 2"):
        stability(a_run({"layer_0_hidden": [1.0, 2.0]}, measured=[1]))


def test_a_run_without_samples_says_what_to_do():
    state = fused_probe(torch.ones(3, 4))
    run = Run(Sites({"layer_0_hidden": (state.options, Arrays(state.host_arrays()))}), {})
    with pytest.raises(ValueError, match="maxact measure"):
        stability(run)


def test_the_command_chooses_sites_and_says_what_is_not_finite(tmp_path, capsys):
    run = a_run({"layer_0_hidden": [1.0, 8.0, 3.0, float("nan")], "layer_1_hidden": [5.0, 2.0, 2.0, 2.0]})
    run.save(tmp_path / "run")
    out, _ = maxact("stability", tmp_path / "run", "--sites", "layer_1_*", capsys=capsys)
    assert out.startswith("NOT FINITE") and "M = 5 over 4 samples" in out
    assert "layer_1_hidden" in out and out.count("layer_0_hidden") == 1
    _, err = maxact("stability", tmp_path / "run", "--sites", "nope", code=2, capsys=capsys)
    assert err == "maxact: sites: 'nope' matches no site of this run\n"


def test_the_command_prints_for_people_and_for_scripts_without_pytorch(tmp_path):
    run = a_run({"layer_0_hidden": [1.0, 8.0, 3.0, 2.0]}, domains=["web\x1b[31m"])
    run.save(tmp_path / "run")
    code = (
        "import sys; from maxact.cli import main\n"
        f"sys.argv = ['maxact', 'stability', {str(tmp_path / 'run')!r}, *sys.argv[1:]]\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Not saturated: from 2 to 4 samples") and "layer_0_hidden" in shown
    assert "\x1b" not in shown and "web\\x1b[31m" in shown
    scripted = subprocess.run([sys.executable, "-c", code, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(scripted.stdout) == stability(Run.load(tmp_path / "run"))
