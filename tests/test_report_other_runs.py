"""Runs that hold more or less than a measured one: experts, published files, tables left out, fp16 and fp32."""

import pytest
import torch
from report_pages import jumping_run, opened, state
from test_cli import maxact
from test_import import stats, tops, write

from maxact.run import Run, Sites
from maxact_kernels import fused_probe
from maxact_kernels.storage import Arrays


def expert_run() -> Run:
    """Two layers of four experts; expert 2 of layer 1 has the largest value, expert 3 saw no token."""
    sites = {}
    for layer in range(2):
        x = torch.ones(30, 8)
        x[20, 3] = 50.0 * (layer + 1)
        expert = torch.arange(30) // 10
        made = fused_probe(x, topk=5, token_ids=(expert << 32) + (torch.arange(30) % 10), n_samples=4)
        sites[f"layer_{layer}_experts_act"] = made.options, Arrays(made.host_arrays())
        sites[f"layer_{layer}_hidden"] = state(x)
    return Run(Sites(sites), {"token_text": {"0:0": {"text": "first"}}})


def test_experts_are_shown_by_absmax_and_tokens_seen(chromium, tmp_path):
    with opened(chromium, tmp_path, [("dense", jumping_run()), ("moe", expert_run())]) as shown:
        assert shown.finding("experts") == (
            "Layer 1, expert 2 of moe has the largest |x|, 100, 100× the median expert's 1; it saw 10 tokens. "
            "2 of 8 experts saw none: of them nothing is known."
        )
        shown.choose("experts.layer", 0)
        assert shown.finding("experts").startswith("Layer 0, expert 2 of moe has the largest |x|, 50,")
        shown.choose("experts.z", "n_tokens")
        assert shown.link() == "#experts.layer=0&experts.z=n_tokens"
        shown.go("#site.run=1&site.kind=0&site.layer=1")
        assert shown.tab.locator("#site thead th").all_text_contents()[-1] == "expert"
        row = shown.tab.locator("#site tbody tr").first.locator("td").all_text_contents()
        assert row == ["first", "100", "3", "0", "0", "2"]
        assert shown.said == []


def test_trajectories_of_a_group_of_tokens_are_those_of_the_group(chromium, tmp_path):
    groups = {
        f"layer_{i}_hidden": {"absmax": 10.0 * 9 ** (i > 2), "n_tokens": 4, "n_massive_tokens": 0} for i in range(6)
    }
    runs = [("plain", jumping_run()), ("told", jumping_run(1, groups={"position_0": groups}))]
    with opened(chromium, tmp_path, runs) as shown:
        shown.choose("trajectories.tokens", 0)
        assert shown.finding("trajectories") == (
            "told: jump-and-plateau, layer 3 multiplies absmax by 9, up to 90 at layer 3."
        )
        shown.choose("trajectories.kind", 0)
        assert "counted the tokens of the group position_0" in shown.finding("trajectories")
        assert shown.said == []


def test_stability_is_that_of_the_run(chromium, tmp_path):
    with opened(chromium, tmp_path, [("one", jumping_run())]) as shown:
        assert shown.finding("stability").startswith("one: not saturated: the last doubling, to 4 samples, raised")
        assert shown.said == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("budget", [None, 1])
def test_quantization_of_what_is_known_by_bins_carries_the_bounds_of_the_run(
    chromium, tmp_path, monkeypatch, dtype, budget
):
    """fp32 counts are bins in the run already: same figures, same bounds. Merged ones hold the run's within
    theirs, and spread over a bin come within 0.2 dB of it."""
    if budget:
        monkeypatch.setattr("maxact.report_data.TABLE_BYTES", budget)
    x = torch.randn(300, 40, generator=torch.Generator().manual_seed(3)).mul(7).to(dtype)
    x[0, 0], x[1, :7] = 900.0, 0.0
    run = Run(Sites({"layer_0_hidden": state(x)}), {})
    with opened(chromium, tmp_path, [("a", run)]) as shown:
        assert shown.tab.evaluate("D.merged_bits") == (4 if budget else None)
        for fmt in ("int8", "int4", "fp8_e4m3", "fp8_e5m2"):
            for threshold in (900.0, 20.0, 3.0):
                ours = run.sites["layer_0_hidden"].quantization_error(fmt, threshold)
                theirs = shown.tab.evaluate(
                    "([fmt, thr]) => errorOf(fmt, thr, magnitudes(RUNS[0].sites[0]))", [fmt, threshold]
                )
                if budget:
                    assert theirs["worst"] <= ours.sqnr_db <= theirs["best"]
                    assert theirs["sqnr"] == pytest.approx(ours.sqnr_db, abs=0.2), (fmt, threshold)
                else:
                    found = theirs["sqnr"], theirs["worst"], theirs["best"]
                    assert found == pytest.approx((ours.sqnr_db, *ours.sqnr_db_bounds), abs=1e-9)
                    assert (theirs["clip"], theirs["zeroed"]) == (ours.clip_rate, ours.zeroed)
        assert shown.said == []


def test_published_files_are_shown_as_far_as_they_go(chromium, tmp_path, capsys):
    write(tmp_path / "in", activation_stats=stats(), top5_stats=tops())
    maxact("import", tmp_path / "in", "-o", tmp_path / "runs", capsys=capsys)
    with opened(
        chromium, tmp_path, [("theirs", Run.load(tmp_path / "runs" / "Tiny-1B")), ("ours", jumping_run())]
    ) as shown:
        card = shown.tab.text_content(".card:nth-child(1)")
        assert "M 300" in card and "Imported from published files" in card and "no special tokens" not in card
        assert "theirs" in shown.tab.eval_on_selector_all("#landscape svg text", "all => all.map(t => t.textContent)")
        shown.choose("map.run", 0)
        assert "In theirs the largest value" in shown.finding("map")
        shown.tab.uncheck('.card:nth-child(2) input[name="runs"]')
        shown.drawn()
        assert shown.finding("quantization").startswith("No run that is switched on has a table")
        assert shown.finding("stability").startswith("No run that is switched on tells its samples apart")
        for text in shown.tab.eval_on_selector_all(".finding", "all => all.map(p => p.textContent)"):
            assert text.endswith(".") and "undefined" not in text and "NaN" not in text, text
        assert shown.said == []


def test_the_command_writes_the_page_and_says_how_large_it_is(tmp_path, capsys):
    for seed in (0, 1):
        jumping_run(seed).save(tmp_path / str(seed) / "run")
    out, err = maxact(
        "report", tmp_path / "0" / "run", tmp_path / "1" / "run", "-o", tmp_path / "r.html", capsys=capsys
    )
    text = (tmp_path / "r.html").read_text()
    assert out == "" and f"Written to {tmp_path / 'r.html'}" in err
    assert '"label":"0/run"' in text and '"label":"1/run"' in text and str(tmp_path) not in text
    _, err = maxact("report", tmp_path / "none", "-o", tmp_path / "r.html", code=2, capsys=capsys)
    assert "not a run directory" in err and (tmp_path / "r.html").read_text() == text
