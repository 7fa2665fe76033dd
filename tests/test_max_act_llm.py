"""An exported run has the keys and, where both are right, the values of the code behind arXiv 2605.15572."""

import json
import math

import pytest
import torch
from test_cli import maxact

from maxact.export import export
from maxact.max_act_llm import TOPK
from maxact.max_act_llm_import import import_files
from maxact.run import Run, Sites
from maxact_kernels import fused_probe
from maxact_kernels.storage import Arrays

HEAD = [
    "model_name", "model_path", "model_type", "num_hidden_layers", "hidden_size", "data_path", "num_samples", "max_seq_len"
]  # fmt: skip
PLAIN = ["mean", "std", "abs_mean", "rms", "max", "min", "count"]
SUN = [
    "sun_peak_abs", "sun_peak_token_median", "sun_peak_token_ratio", "sun_max_ratio", "sun_max_ratio_abs",
    "sun_max_ratio_median", "sun_mean_ratio", "sun_std_ratio", "sun_n_tokens", "sun_n_pass", "sun_t_val", "sun_t_ratio",
]  # fmt: skip
QUANTILES = [
    "abs_median",
    "abs_q25",
    "abs_q75",
    "abs_q90",
    "abs_q99",
    "abs_q999",
    "abs_hist_count",
    "abs_hist_zero_frac",
]
TOP = [
    "topk_abs", "topk_signed", "top_k", "topk_abs_mean", "topk_signed_mean", "top5_abs", "top5_signed", "top5_abs_mean",
    "top5_signed_mean", "top10_abs", "top10_signed", "top100_abs", "top100_signed",
]  # fmt: skip
KINDS = ["activation_stats", "top5_stats", "quant_sanity"]
N, D = 60, 33


def held(x: torch.Tensor, **options):
    state = fused_probe(x, **{"int8_per_token": True} | options)
    return state.options, Arrays(state.host_arrays())


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    x = {
        name: torch.randn(N, D).bfloat16() * scale
        for name, scale in [("layer_0_mlp_gate", 9), ("layer_1_hidden", 0.01), ("layer_0_attn_output", 2)]
    }
    x["embedding_output"] = torch.randn(N, D).bfloat16()
    x["final_layernorm"] = torch.randn(N, D).bfloat16()
    x["layer_1_hidden"][7, 5], x["layer_1_hidden"][9, 6] = -130.0, 130.0  # both are massive, and M
    x["layer_1_mlp_act"] = torch.full((N, D), 7.0).bfloat16()
    x["layer_1_moe_gate"] = torch.full((N, 8), 5000.0).bfloat16()
    return x


def run_of(x: dict[str, torch.Tensor], provenance: dict | None = None, **options) -> Run:
    about = {
        "partial": False,
        "model": {"model_id": "maker/Tiny-0.1B", "model_type": "llama"},
        "corpus": {"name": "builtin", "max_length": 2048},
        "n_samples": 6,
    }
    return Run(Sites({name: held(t, **options) for name, t in x.items()}), about | (provenance or {}))


@pytest.fixture
def exported(tmp_path):
    def write(run: Run):
        paths, notes = export(run, "max-act-llm", tmp_path, overwrite=True)
        assert [path.name for path in paths] == [f"Tiny-0.1B_{kind}.json" for kind in KINDS]
        return *[json.loads(path.read_text(), parse_constant=pytest.fail) for path in paths], notes

    return write


def test_the_files_have_the_published_keys_in_the_published_order(exported):
    stats, top, _, _ = exported(run_of(tensors()))
    assert list(stats) == [*HEAD, "global_max_activation", "global_max_location", "per_layer_stats"]
    assert list(top) == [*HEAD, "global_top5_abs", "global_top5_signed", "global_top5_abs_mean", "per_layer_stats"]
    names = ["embedding_output", "layer_0_attn_output", "layer_0_mlp_gate", "layer_1_moe_gate", "layer_1_hidden", "final_layernorm"]  # fmt: skip
    assert list(stats["per_layer_stats"]) == names
    for name, values in stats["per_layer_stats"].items():
        assert list(values) == PLAIN + (SUN + QUANTILES if "gate" not in name else [])
        assert all(type(value) is float for value in values.values())
    assert list(top["per_layer_stats"]) == [name for name in names if "gate" not in name]
    assert all(list(values) == TOP for values in top["per_layer_stats"].values())
    assert {key: stats[key] for key in HEAD} == {key: top[key] for key in HEAD} == {
        "model_name": "Tiny-0.1B", "model_path": "maker/Tiny-0.1B", "model_type": "llama", "num_hidden_layers": 2,
        "hidden_size": D, "data_path": "builtin", "num_samples": 6, "max_seq_len": 2048,
    }  # fmt: skip


def test_the_values_are_those_of_the_published_definitions(exported):
    x = tensors()
    stats, top, _, _ = exported(run_of(x))
    for name, values in stats["per_layer_stats"].items():
        t = x[name].float()
        assert (values["max"], values["min"], values["count"]) == (t.max(), t.min(), t.numel())
        wide = t.double()
        for key, value in [
            ("mean", wide.mean()), ("std", wide.std(correction=0)), ("abs_mean", wide.abs().mean()), ("rms", wide.square().mean().sqrt())
        ]:  # fmt: skip
            assert values[key] == pytest.approx(value.item(), rel=1e-6, abs=1e-9)
        if "gate" in name:
            continue
        peaks, medians = t.abs().amax(1), t.abs().median(1).values
        ratios = peaks / medians
        first = peaks.argmax()
        assert values["sun_peak_abs"] == peaks[first]
        assert values["sun_peak_token_median"] == medians[first]
        assert values["sun_peak_token_ratio"] == peaks[first].item() / medians[first].item()
        assert values["sun_max_ratio"] == ratios.max()
        assert values["sun_max_ratio_abs"] == peaks[ratios.argmax()]
        assert values["sun_max_ratio_median"] == medians[ratios.argmax()]
        assert values["sun_mean_ratio"] == pytest.approx(ratios.double().mean().item(), rel=1e-6)
        assert values["sun_std_ratio"] == pytest.approx(ratios.double().std(correction=0).item(), rel=1e-6)
        assert values["sun_n_tokens"] == N
        assert values["sun_n_pass"] == ((peaks > 100) & (ratios > 1000)).sum() == (2 if name == "layer_1_hidden" else 0)
        ordered = t.abs().flatten().sort().values
        for key, q in [("median", 0.5), ("q25", 0.25), ("q999", 0.999)]:
            assert values[f"abs_{key}"] == ordered[math.ceil(q * t.numel()) - 1]
        assert values["abs_hist_zero_frac"] == (t == 0).sum().item() / t.numel()
        largest = top["per_layer_stats"][name]
        assert largest["topk_abs"] == ordered.flip(0)[:TOPK].tolist()
        assert largest["topk_abs"] == [abs(value) for value in largest["topk_signed"]]
        assert largest["top5_abs_mean"] == sum(largest["topk_abs"][:5]) / 5
        assert largest["top100_signed"][:10] == largest["top10_signed"] and largest["top_k"] == TOPK


def test_m_has_its_sign_and_first_site_and_leaves_gates_out(exported):
    stats, top, _, notes = exported(run_of(tensors()))
    assert (stats["global_max_activation"], stats["global_max_location"]) == (130.0, "layer_1_hidden (max)")
    assert top["global_top5_abs"][:2] == [130.0, 130.0] and top["global_top5_signed"][:2] == [130.0, -130.0]
    assert len(top["global_top5_abs"]) == 4 * 5
    assert not [note for note in notes if "global_max_activation" in note]
    x = tensors()
    x["layer_0_mlp_gate"][0, 0] = 8000.0
    stats, _, _, notes = exported(run_of(x))
    assert stats["global_max_activation"] == 130.0
    assert "global_max_activation is 130" in notes[0] and notes[0].endswith("is 8000.")


def test_the_probe_is_int8_at_the_site_of_m_by_the_published_definition(exported):
    x = tensors()
    _, _, probe, _ = exported(run_of(x))
    t = x["layer_1_hidden"].double()
    assert list(probe) == [
        "model_name", "family", "role", "model_path", "data_path", "bits", "clip_quantile", "calibration_samples",
        "eval_samples", "max_seq_len", "layer_policy", "selected_layers", "reference_global_max_abs",
        "reference_global_max_location", "thresholds", "metrics",
    ]  # fmt: skip
    assert probe["selected_layers"] == ["layer_1_hidden"] and probe["reference_global_max_abs"] == 130.0
    assert [row["policy"] for row in probe["metrics"]] == ["clip_q0.999", "max_abs"]
    assert probe["thresholds"]["max_abs"] == {"layer_1_hidden": 130.0}
    clip = t.abs().flatten().sort().values[math.ceil(0.999 * t.numel()) - 1].item()
    assert probe["thresholds"]["clip_q0.999"] == {"layer_1_hidden": clip}
    for row in probe["metrics"]:
        assert list(row) == ["layer", "policy", "count", "mae", "rmse", "rel_mae", "rel_rmse", "sqnr_db", "clip_rate"]
        threshold = probe["thresholds"][row["policy"]]["layer_1_hidden"]
        scale = threshold / 127
        error = (t.clamp(-threshold, threshold) / scale).round().clamp(-127, 127) * scale - t
        assert row["count"] == t.numel()
        assert row["mae"] == pytest.approx(error.abs().mean().item(), rel=1e-9)
        assert row["rmse"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-9)
        assert row["rel_mae"] == pytest.approx((error.abs().sum() / t.abs().sum()).item(), rel=1e-9)
        assert row["rel_rmse"] == pytest.approx((error.square().sum() / t.square().sum()).sqrt().item(), rel=1e-9)
        assert row["sqnr_db"] == pytest.approx(10 * math.log10(t.square().sum() / error.square().sum()), rel=1e-9)
        assert row["clip_rate"] == (t.abs() > threshold).sum() / t.numel()


def test_a_run_of_zeros_has_no_site_of_m_to_probe(tmp_path):
    paths, _ = export(run_of({"layer_0_hidden": torch.zeros(3, 8)}), "max-act-llm", tmp_path)
    stats = json.loads(paths[0].read_text(), parse_constant=pytest.fail)
    assert (stats["global_max_activation"], stats["global_max_location"], len(paths)) == (0.0, "", 2)


def test_what_the_format_cannot_hold_is_said(exported):
    x = tensors()
    x["embedding_output"][3, 3] = float("nan")
    x["final_layernorm"][4, 5:] = 0.0
    around = {"corpus": {"name": "builtin", "bos": True}, "skip_first": 1}
    stats, _, _, notes = exported(run_of(x, {"partial": True} | around, topk=9))
    said = " ".join(notes)
    assert (
        "quant_sanity: thresholds and errors are of the same samples" in said and "moe_gate holds router logits" in said
    )
    assert "Measured with bos, skip_first, as the published results were not" in said
    assert "Left out" in said and "mlp_act" in said and "top_k" in said
    assert stats["per_layer_stats"]["embedding_output"]["count"] == N * D - 1
    assert "median of 0 in 1 of the sites, first final_layernorm" in said
    assert stats["per_layer_stats"]["final_layernorm"]["sun_max_ratio"] == 2.0**128 - 2.0**104


def test_a_run_without_such_sites_is_refused():
    with pytest.raises(ValueError, match="max-act-llm: the run has none of the sites of this format"):
        export(run_of({"layer_0_mlp_act": torch.ones(3, 4)}), "max-act-llm", None)


def test_the_command_overwrites_only_when_asked(tmp_path, capsys):
    run_of(tensors()).save(tmp_path / "run")
    arguments = "export", tmp_path / "run", "--format", "max-act-llm", "-o", tmp_path / "out"
    out, err = maxact(*arguments, capsys=capsys)
    assert [line.rpartition("/")[2] for line in out.split()] == [f"Tiny-0.1B_{kind}.json" for kind in KINDS]
    assert "Not in this format" in err
    _, err = maxact(*arguments, code=2, capsys=capsys)
    assert "--overwrite" in err
    out, _ = maxact(*arguments, "--overwrite", "--json", capsys=capsys)
    assert set(json.loads(out)) == {"files", "notes"}
    _, err = maxact("export", tmp_path / "run", "--format", "nonsense", code=2, capsys=capsys)
    assert "expected one of max-act-llm" in err


def test_a_models_name_never_leaves_the_folder(tmp_path):
    run = run_of(tensors(), {"model": {"model_id": "../../..\x1b[31m/.hidden/../x y"}})
    paths, _ = export(run, "max-act-llm", tmp_path / "out")
    assert [path.name for path in paths] == [f"x-y_{kind}.json" for kind in KINDS]
    run = run_of(tensors(), {"model": {"model_id": ".."}})
    paths, _ = export(run, "max-act-llm", tmp_path / "out")
    assert [path.name for path in paths] == [f"model_{kind}.json" for kind in KINDS]


def test_what_was_exported_is_imported_with_the_same_figures(tmp_path):
    run = run_of(tensors())
    paths, _ = export(run, "max-act-llm", tmp_path / "first")
    (found,) = import_files([tmp_path / "first"], tmp_path / "runs")
    assert found.fault is None and found.run.M == run.M
    for name, theirs in found.run.sites.items():
        ours = run.sites[name]
        for figure in ("absmax", "max", "min", "mean", "std", "abs_mean", "rms", "n_elements", "n_nan"):
            assert getattr(theirs, figure) == getattr(ours, figure)
        if "gate" not in name:
            for figure in (
                "n_tokens",
                "n_zero",
                "n_massive_tokens",
                "ratio_max",
                "ratio_mean",
                "ratio_std",
                "peak_median",
            ):
                assert getattr(theirs, figure) == getattr(ours, figure)
            assert theirs.topk.values.tolist() == ours.topk.values.tolist()
            assert theirs.quantile(0.999) == ours.quantile(0.999)
    again, _ = export(Run.load(found.directory), "max-act-llm", tmp_path / "second")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
