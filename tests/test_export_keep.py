"""What is kept in high precision is enough: without it the rest has the SQNR or the room that was asked for."""

import json

import numpy as np
import pytest
import torch
from small_runs import noise, run_of, with_peak

from maxact.export_keep import keep

D = 256


def kept(run, **demand) -> dict:
    files, _ = keep(run, **demand)
    return json.loads(files["keep.json"])


def outliers(*channels: int, value=200.0) -> torch.Tensor:
    x = noise(d=D)
    for channel in channels:
        x[..., channel] *= value
    return x


def quantized_sqnr_db(x: np.ndarray, bits: int) -> float:
    scale = np.abs(x).max() / (2 ** (bits - 1) - 1)
    return 10 * np.log10((x**2).sum() / ((x - np.round(x / scale) * scale) ** 2).sum())


def test_the_channels_that_are_kept_are_the_fewest_that_are_enough():
    x = outliers(7, 100, 31)
    run = run_of({"layer_3_mlp_act": x, "layer_4_mlp_act": noise(d=D), "layer_3_hidden": x}, modules={
        "layer_3_mlp_act": {"end": "input", "paths": ["m.3.down_proj"]}})  # fmt: skip
    record = kept(run, sqnr=35.0)
    (site,) = record["sites"]
    assert (site["site"], site["keep"], record["layers"]) == ("layer_3_mlp_act", "channels", [3])
    assert sorted(site["channels"]) == [7, 31, 100] and site["modules"] == ["m.3.down_proj"]
    assert site["sqnr_db"] < 35 <= site["sqnr_db_of_rest"]
    assert site["int8_per_token_db"] == run.sites["layer_3_mlp_act"].int8_per_token.sqnr_db
    assert site["zeroed"] > 0.5 and site["absmax_by_rms"] > 10

    flat = x.double().reshape(-1, D).numpy()
    rest = np.delete(flat, site["channels"], axis=1)
    assert site["threshold"] == np.abs(rest).max()
    assert quantized_sqnr_db(rest, 8) >= 35
    for fewer in ([], site["channels"][:1], site["channels"][:2]):
        within = np.delete(flat, fewer, axis=1)
        assert quantized_sqnr_db(within, 8) < 35


def test_the_estimate_is_of_all_elements_up_to_the_threshold_and_the_truth_never_below_the_least():
    x = noise(n_samples=8, d=D)
    x[..., 7] = 2.0  # with it the elements up to the threshold have 1.5 dB more than without
    x[0, 0, 7] = 400.0
    x[..., 8:] *= 0.1
    values = x.double().numpy().reshape(-1, D)
    (site,) = kept(run_of({"layer_0_mlp_act": x}), sqnr=30.0)["sites"]
    estimate = quantized_sqnr_db(values[np.abs(values) <= site["threshold"]], 8)
    truth = quantized_sqnr_db(np.delete(values, site["channels"], axis=1), 8)
    assert site["channels"] == [7] and truth < 30 <= estimate
    assert site["sqnr_db_of_rest"] == pytest.approx(estimate, rel=1e-12)
    assert site["sqnr_db_of_rest_least"] <= truth


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("seed", range(4))
def test_the_least_is_below_the_truth_whatever_the_kept_channels_hold(dtype, seed):
    x = outliers(7, 100) * torch.rand(D, generator=torch.Generator().manual_seed(seed))
    x = x.to(dtype)
    values = x.double().numpy().reshape(-1, D)
    for site in kept(run_of({"layer_0_mlp_act": x}), sqnr=36.0)["sites"]:
        assert site["keep"] == "channels"
        truth = quantized_sqnr_db(np.delete(values, site["channels"], axis=1), 8)
        assert site["sqnr_db_of_rest_least"] <= min(truth, site["sqnr_db_of_rest"])


def test_a_run_in_which_nothing_can_be_judged_is_an_error():
    for run in (run_of({}), run_of({"layer_0_mlp_act": noise(n_positions=0)})):
        for demand in ({"sqnr": 30.0}, {"limit": "fp16"}):
            with pytest.raises(ValueError, match="no site with a value"):
                keep(run, **demand)


def test_where_a_few_channels_are_not_enough_the_whole_site_is_kept():
    spread = noise(d=D)
    spread[0, 0, ::3] = 300.0
    (site,) = kept(run_of({"layer_0_mlp_act": spread}), sqnr=45.0)["sites"]
    assert (site["keep"], site["channels"], site["sqnr_db_of_rest_least"]) == ("site", [], None)


def test_nothing_is_kept_where_all_have_what_was_asked_for():
    assert (
        kept(run_of({"layer_0_mlp_act": noise(d=D), "layer_1_mlp_act": torch.zeros(1, 2, D)}), sqnr=30.0)["sites"] == []
    )


def test_below_a_limit_the_kept_channels_are_those_over_it():
    run = run_of({"layer_0_hidden": with_peak(-300.0, d=D), "layer_1_hidden": with_peak(100.0, d=D)})
    record = kept(run, limit="e4m3", headroom=2.0)
    assert record["demand"] == {"limit": "e4m3", "largest": 448.0, "headroom": 2.0}
    (site,) = record["sites"]
    assert (site["site"], site["keep"], site["channels"], site["absmax"]) == ("layer_0_hidden", "channels", [5], 300.0)
    assert kept(run, limit="e4m3")["sites"] == []
    assert [s["site"] for s in kept(run, limit="99.5")["sites"]] == ["layer_0_hidden", "layer_1_hidden"]
    assert kept(run_of({"x": torch.full((1, 1, D), 9.0)}), limit="5")["sites"][0]["keep"] == "site"


@pytest.mark.parametrize(
    ("demand", "sentence"),
    [
        ({}, "either --sqnr DB or --limit fp16"),
        ({"sqnr": 9.0, "limit": "fp16"}, "either --sqnr DB or --limit fp16"),
        ({"sqnr": float("nan")}, "sqnr: nan, expected a finite number of dB"),
        ({"limit": "fp16", "headroom": 0.0}, "headroom: 0.0, expected a positive factor"),
        ({"limit": "fp17"}, "limit: 'fp17', expected fp16"),
        ({"sqnr": 9.0, "quantize": "int1"}, "'int1', expected int2 to int16"),
    ],
)
def test_a_demand_that_says_nothing_is_refused(demand, sentence):
    with pytest.raises(ValueError, match=sentence):
        keep(run_of({"layer_0_mlp_act": noise()}), **demand)
