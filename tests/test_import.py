"""Published files become runs that hold what the files hold and no more, and are written again to the same bytes."""

import json
import math
import os

import pytest
from test_cli import maxact

from maxact.run import Place, Run

LARGEST = [300.0, -300.0, 299.5, -2.0, 1.0, 0.5]
HEAD = {
    "model_name": "Tiny-1B", "model_path": "/home/someone/models/Tiny-1B", "model_type": "qwen3_moe",
    "num_hidden_layers": 1, "hidden_size": 8, "data_path": "/home/someone/eval_5k.jsonl", "num_samples": 50,
    "max_seq_len": 32768,
}  # fmt: skip


def numbers(largest: float, **others) -> dict:
    plain = {"mean": 0.25, "std": 2.5, "abs_mean": 1.5, "rms": 2.75, "max": largest, "min": -largest, "count": 800.0}
    sun = {
        "sun_peak_abs": largest, "sun_peak_token_median": 0.1, "sun_peak_token_ratio": largest / 0.1, "sun_max_ratio": 3e3,
        "sun_max_ratio_abs": largest, "sun_max_ratio_median": 0.1, "sun_mean_ratio": 8.5, "sun_std_ratio": 1.5,
        "sun_n_tokens": 100.0, "sun_n_pass": 3.0, "sun_t_val": 100.0, "sun_t_ratio": 1000.0,
        "abs_median": 0.013, "abs_q25": 0.01, "abs_q75": 0.02, "abs_q90": 0.03, "abs_q99": 0.1, "abs_q999": 0.3,
        "abs_hist_count": 800.0, "abs_hist_zero_frac": 5 / 800,
    }  # fmt: skip
    return plain | sun | others


def top(values: list[float]) -> dict:
    absolute = [abs(value) for value in values]
    return {"topk_abs": absolute, "topk_signed": values, "top_k": len(values), "top5_abs": absolute[:5]}


def stats(**others) -> dict:
    router = {"mean": 0.125, "std": 0.1, "abs_mean": 0.125, "rms": 0.2, "max": 900.0, "min": 0.0, "count": 824.0}
    sites = {
        "embedding_output": numbers(2.0),
        "layer_0_attn_output": numbers(7.0),
        "layer_0_moe_gate": router,
        "layer_0_router_logits": router,
        "layer_0_hidden": numbers(300.0),
        "final_layernorm": numbers(300.0, mean=math.nan, abs_mean=math.nan, sun_n_pass=0.0),
    }
    peak = {"global_max_activation": 300.0, "global_max_location": "layer_0_hidden (max)"}
    return HEAD | peak | {"per_layer_stats": sites} | others


def tops(**others) -> dict:
    overall = {"global_top5_abs": [300.0], "global_top5_signed": [-300.0], "global_top5_abs_mean": 300.0}
    return HEAD | overall | {"per_layer_stats": {"layer_0_hidden": top(LARGEST)}} | others


def probe(**others) -> dict:
    row = {"layer": "layer_0_hidden", "policy": "max_abs", "count": 80, "sqnr_db": 29.07, "clip_rate": 1e-9}
    return {
        "model_name": "Tiny-1B", "family": "Tiny", "bits": 8, "selected_layers": ["layer_0_hidden"],
        "reference_global_max_abs": None, "thresholds": {"max_abs": {"layer_0_hidden": 300.0}}, "metrics": [row],
    } | others  # fmt: skip


def write(folder, name="Tiny-1B", **documents) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, document in documents.items():
        text = document if isinstance(document, (str, bytes)) else json.dumps(document, indent=2, ensure_ascii=False)
        (folder / f"{name}_{kind}.json").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def published(tmp_path):
    write(tmp_path / "in" / "json", activation_stats=stats(), top5_stats=tops())
    write(tmp_path / "in" / "quant", quant_sanity=probe())
    return tmp_path / "in"


def test_import_and_export_give_the_same_bytes(published, tmp_path, capsys):
    out, err = maxact("import", published, "-o", tmp_path / "runs", capsys=capsys)
    assert out == f"{tmp_path}/runs/Tiny-1B: M = 300, 6 sites\n"
    assert "Such files hold no positions, channels" in err and "2 router sites" in err
    maxact("export", tmp_path / "runs" / "Tiny-1B", "--format", "max-act-llm", "-o", tmp_path / "out", capsys=capsys)
    read = sorted(published.rglob("*.json"), key=lambda path: path.name)
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in read] == [path.name for path in written] and len(read) == 3
    assert [path.read_bytes() for path in read] == [path.read_bytes() for path in written]


def test_a_site_has_what_its_files_hold_under_our_names(published, tmp_path, capsys):
    maxact("import", published, "-o", tmp_path, capsys=capsys)
    run = Run.load(tmp_path / "Tiny-1B")
    hidden = run.sites["layer_0_hidden"]
    assert (hidden.absmax, hidden.max, hidden.min, hidden.n_elements, hidden.n_tokens) == (
        300.0,
        300.0,
        -300.0,
        800,
        100,
    )
    assert (hidden.n_massive_tokens, hidden.n_zero, hidden.n_nan, hidden.n_inf) == (3, 5, 0, 0)
    assert (hidden.ratio_max, hidden.ratio_mean, hidden.peak_median) == (3e3, 8.5, 0.1)
    assert hidden.topk.values.tolist() == LARGEST and not len(hidden.topk.token_ids)
    assert run.sites["embedding_output"].topk.values.tolist() == [2.0]
    assert (hidden.options.d, hidden.options.t_abs, hidden.options.t_ratio) == (8, 100.0, 1000.0)
    assert [hidden.quantile(q) for q in (0.25, 0.5, 0.75, 0.9, 0.99, 0.999)] == [0.01, 0.013, 0.02, 0.03, 0.1, 0.3]
    assert not hidden.exact and hidden.bound == pytest.approx(0.0746, abs=1e-4)
    assert run.provenance["n_tokens"] == 100 and run.provenance["corpus"]["name"] == "eval_5k.jsonl"


def test_what_the_files_do_not_hold_is_not_made_up(published, tmp_path, capsys):
    maxact("import", published, "-o", tmp_path, capsys=capsys)
    sites = Run.load(tmp_path / "Tiny-1B").sites
    hidden, router, norm = sites["layer_0_hidden"], sites["layer_0_moe_gate"], sites["final_layernorm"]
    assert hidden.n_absmax is hidden.first_nonfinite is hidden.ratio_max_token is hidden.n_zero_median is None
    assert math.isnan(router.ratio_max) and router.n_tokens is router.n_massive_tokens is router.n_zero is None
    assert router.options.d is None  # its rows count padding, so its width is not known
    assert norm.n_nan is None  # a mean that is nan has met one, who knows how many
    assert hidden.channel_absmax.size == 0 and "channel_absmax" not in hidden.scalars()
    for ask in (
        lambda: hidden.counts,
        lambda: hidden.sample_absmax,
        lambda: hidden.ratio_table,
        lambda: hidden.int8_per_token,
        lambda: hidden.quantization_error("int8"),
        lambda: hidden.n_above(3.0),
    ):
        with pytest.raises(ValueError, match="published files hold no such table; measure the model"):
            ask()
    with pytest.raises(ValueError, match=r"q: 0.3, expected one of those .* \(0.25, 0.5, 0.75, 0.9, 0.99, 0.999\)"):
        hidden.quantile(0.3)
    with pytest.raises(ValueError, match="hold no states"):
        list(sites.held())


def test_m_leaves_routers_and_unknown_sites_out_and_has_no_place(published, tmp_path, capsys):
    maxact("import", published, "-o", tmp_path, capsys=capsys)
    run = Run.load(tmp_path / "Tiny-1B")
    assert run.M == 300.0
    assert run.peaks() == [Place(name, None, None, None, 300.0) for name in ("layer_0_hidden", "final_layernorm")]


def test_a_run_saved_again_and_loaded_is_the_same(published, tmp_path, capsys):
    maxact("import", published, "-o", tmp_path, capsys=capsys)
    run = Run.load(tmp_path / "Tiny-1B")
    run.save(tmp_path / "again")
    again = Run.load(tmp_path / "again")
    assert again.to_json() == run.to_json() and again.sites.files() == run.sites.files()
    assert all(again.sites[name].same_bits(run.sites[name]) for name in run.sites)
    json.loads((tmp_path / "again" / "run.json").read_text(), parse_constant=pytest.fail)


def test_commands_on_runs_take_an_imported_one(published, tmp_path, capsys):
    maxact("import", published, "-o", tmp_path, capsys=capsys)
    run = tmp_path / "Tiny-1B"
    out, _ = maxact("show", run, capsys=capsys)
    assert "IMPORTED from max-act-llm files" in out and "6 tokens" not in out and "29.1 dB" in out
    assert "3 tokens in layer_0_hidden" in out and "NOT FINITE: nan or inf in 1 site," in out and "no special tokens" not in out
    out, _ = maxact("compare", run, run, capsys=capsys)
    assert "the same to the last bit" in out
    changes = json.loads(maxact("compare", run, run, "--json", capsys=capsys)[0])["changes"]
    assert [c["q999_factor"] for c in changes if c["site"] == "layer_0_hidden"] == [1.0]  # a quantile that is published
    out, _ = maxact("check", run, "--limit", "250", "--json", code=1, capsys=capsys)
    finite, limit = json.loads(out)["rules"]
    assert [failure["site"] for failure in finite["failures"]] == ["final_layernorm"]
    assert {failure["site"] for failure in limit["failures"]} == {
        "layer_0_hidden", "final_layernorm", "layer_0_moe_gate", "layer_0_router_logits"
    }  # fmt: skip
    _, err = maxact("check", run, "--sqnr", "20", code=2, capsys=capsys)
    assert "published files hold no such table" in err
    for form in ("channel-absmax", "smoothquant"):
        _, err = maxact("export", run, "--format", form, "-o", tmp_path / "out", code=2, capsys=capsys)
        assert "imported" in err and not (tmp_path / "out").exists()


def test_older_files_without_medians_and_with_five_values_are_read(tmp_path, capsys):
    plain = {"mean": 0.0, "std": 1.0, "abs_mean": 0.5, "rms": 1.0, "max": 4.0, "min": -2.0, "count": 800.0}
    five = {"top5_abs": [4.0, 2.0], "top5_signed": [4.0, -2.0]}
    old = stats(per_layer_stats={"layer_0_hidden": plain}, global_max_activation=4.0)
    write(tmp_path / "in", activation_stats=old, top5_stats=tops(per_layer_stats={"layer_0_hidden": five}))
    maxact("import", tmp_path / "in", "-o", tmp_path / "runs", capsys=capsys)
    run = Run.load(tmp_path / "runs" / "Tiny-1B")
    site = run.sites["layer_0_hidden"]
    assert run.provenance["n_tokens"] == 100 and site.options.d == 8 and site.n_massive_tokens is None
    assert site.topk.values.tolist() == [4.0, -2.0]
    out, _ = maxact("show", tmp_path / "runs" / "Tiny-1B", capsys=capsys)
    assert "M = 4\n" in out
    maxact("compare", tmp_path / "runs" / "Tiny-1B", tmp_path / "runs" / "Tiny-1B", capsys=capsys)


def site(name="layer_0_hidden", **values) -> dict:
    return stats(per_layer_stats={name: numbers(2.0) | values})


def with_top(values: dict) -> dict:
    return {"activation_stats": stats(), "top5_stats": tops(per_layer_stats={"layer_0_hidden": values})}


BAD = {
    "no JSON": ({"activation_stats": "{"}, "not readable as JSON"),
    "not UTF-8": ({"activation_stats": b'{"a": "\xff"}'}, "not readable as JSON"),
    "deep": ({"activation_stats": "[" * 200_000}, "not readable as JSON"),
    "a key twice": ({"activation_stats": '{"a": 1, "a": 2}'}, "names a key twice"),
    "a long number": ({"activation_stats": '{"a": ' + "9" * 5000 + "}"}, "not readable as JSON"),
    "a list": ({"activation_stats": []}, "expected a JSON object"),
    "no sites": ({"activation_stats": stats(per_layer_stats={})}, "per_layer_stats: expected an object of 1 to"),
    "sites as a list": ({"activation_stats": stats(per_layer_stats=[1])}, "per_layer_stats: expected an object"),
    "no name": ({"activation_stats": HEAD}, "global_max_location is missing"),
    "a name of numbers": ({"activation_stats": stats(model_name=7)}, "model_name: expected text"),
    "a long name": ({"activation_stats": stats(model_name="x" * 5000)}, "model_name: expected text of at most 4096"),
    "more than numbers": ({"activation_stats": stats(extra={"a": [1]})}, "extra: expected text or a number"),
    "escape codes": ({"activation_stats": site("layer_0\x1b[31m")}, "expected an object by the name of a site"),
    "a site as a path": ({"activation_stats": site("../x")}, "expected an object by the name of a site"),
    "text for a number": ({"activation_stats": site(max="1")}, "layer_0_hidden: 'max': expected a number"),
    "true for a number": ({"activation_stats": site(max=True)}, "layer_0_hidden: 'max': expected a number"),
    "half an element": ({"activation_stats": site(count=1.5)}, "layer_0_hidden: count: 1.5, expected a whole number"),
    "infinitely many": ({"activation_stats": site(count=math.inf)}, "layer_0_hidden: count: inf, expected a whole"),
    "nan tokens": ({"activation_stats": site(sun_n_tokens=math.nan)}, "sun_n_tokens: nan, expected a whole number"),
    "huge": ({"activation_stats": site(mean=10**40)}, "'mean': expected a number"),
    "no float32": ({"activation_stats": site(max=1e300)}, "layer_0_hidden: max: 1e+300, expected a float32"),
    "upside down": ({"activation_stats": site(max=-3.0, min=3.0)}, "max -3.0 is less than min 3.0"),
    "a share of 2": ({"activation_stats": site(abs_hist_zero_frac=2.0)}, "abs_hist_zero_frac: 2.0, expected 0 to 1"),
    "minus one layer": ({"activation_stats": stats(num_hidden_layers=-1)}, "num_hidden_layers: -1, expected a whole"),
    "of another model": (
        {"activation_stats": stats(), "top5_stats": tops(model_name="Other")},
        "model_name: 'Other', expected 'Tiny-1B'",
    ),
    "an unknown site": (
        {"activation_stats": stats(), "top5_stats": tops(per_layer_stats={"layer_9_hidden": top([1.0])})},
        "'layer_9_hidden' is not in the activation_stats file",
    ),
    "no largest": (with_top({}), "expected lists top5_abs and top5_signed of one length"),
    "lists of two lengths": (with_top({"topk_abs": [1.0], "topk_signed": []}), "of one length"),
    "other magnitudes": (with_top({"topk_abs": [1.0], "topk_signed": [2.0]}), "holds other magnitudes"),
    "not in order": (with_top(top([1.0, 2.0])), "topk_abs: expected the largest first"),
    "too many": (with_top(top([1.0] * 2000)), "a number or at most 1024 of them"),
    "no stats": ({"top5_stats": tops()}, "expected Tiny-1B_activation_stats.json beside it"),
    "a probe without rows": ({"activation_stats": stats(), "quant_sanity": probe(metrics=3)}, "metrics: expected at"),
    "a probe's odd row": (
        {"activation_stats": stats(), "quant_sanity": probe(metrics=[{"layer": [], "policy": "p", "sqnr_db": 1.0}])},
        "metrics: expected rows of a layer, a policy and numbers",
    ),
    "a probe's thresholds": (
        {"activation_stats": stats(), "quant_sanity": probe(thresholds={"max_abs": {"x": "y"}})},
        "thresholds: expected {policy: {site: number}}",
    ),
}


@pytest.mark.parametrize("documents, fault", BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_named_and_leaves_nothing_while_others_go_on(documents, fault, tmp_path, capsys):
    write(tmp_path / "in", **documents)
    write(tmp_path / "in", "Other-2B", activation_stats=stats(model_name="Other-2B"))
    out, err = maxact("import", tmp_path / "in", "-o", tmp_path / "runs", code=2, capsys=capsys)
    assert f"Tiny-1B was not imported: {tmp_path}/in/Tiny-1B_" in err and fault in err
    assert out == f"{tmp_path}/runs/Other-2B: M = 300, 6 sites\n"
    assert os.listdir(tmp_path / "runs") == ["Other-2B"]


def test_a_name_in_a_file_never_becomes_a_path(tmp_path, capsys):
    write(tmp_path / "in", "..", activation_stats=stats(model_name="../../../etc\x1b[31m"))
    write(tmp_path / "in", "a b;c", activation_stats=stats(model_name="/etc/passwd"))
    maxact("import", tmp_path / "in", "-o", tmp_path / "runs", capsys=capsys)
    assert sorted(os.listdir(tmp_path / "runs")) == ["a-b-c", "model"]
    out, _ = maxact("show", tmp_path / "runs" / "model", capsys=capsys)
    assert "\x1b" not in out
    maxact("export", tmp_path / "runs" / "a-b-c", "--format", "max-act-llm", "-o", tmp_path / "out", capsys=capsys)
    assert os.listdir(tmp_path / "out") == ["a-b-c_activation_stats.json"]


def test_two_files_of_one_model_and_a_run_that_is_there_are_refused(published, tmp_path, capsys):
    maxact("import", published, "-o", tmp_path, capsys=capsys)
    _, err = maxact("import", published, "-o", tmp_path, code=2, capsys=capsys)
    assert "add --overwrite" in err
    maxact(
        "import", published, published / "json", "-o", tmp_path, "--overwrite", capsys=capsys
    )  # the same files twice
    write(published / "other", activation_stats=stats())
    _, err = maxact("import", published, "-o", tmp_path, "--overwrite", code=2, capsys=capsys)
    assert "are of one model; import them one at a time" in err
    out, _ = maxact("import", published / "json", "-o", tmp_path, "--overwrite", "--json", capsys=capsys)
    row = json.loads(out)[0]
    assert (row["name"], row["M"], row["fault"]) == ("Tiny-1B", 300.0, None)


def test_what_is_no_result_file_is_refused(tmp_path, capsys):
    _, err = maxact("import", tmp_path / "nowhere", code=2, capsys=capsys)
    assert "no such file or folder" in err
    (tmp_path / "a.json").write_text("{}")
    _, err = maxact("import", tmp_path / "a.json", code=2, capsys=capsys)
    assert "whose name ends in _activation_stats.json" in err
    os.mkfifo(tmp_path / "x_activation_stats.json")
    _, err = maxact("import", tmp_path, code=2, capsys=capsys)
    assert "whose name ends in _activation_stats.json" in err


def test_a_broken_imported_run_is_refused(published, tmp_path, capsys):
    maxact("import", published, "-o", tmp_path, capsys=capsys)
    directory = tmp_path / "Tiny-1B"
    path = directory / "top5_stats.json"
    path.write_text(path.read_text().replace("299.5", "1e9"))
    with pytest.raises(ValueError, match="top5_stats.json: layer_0_hidden: topk_abs: expected the largest first"):
        Run.load(directory)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="top5_stats.json"):
        Run.load(directory)
    record = json.loads((directory / "run.json").read_text())
    for imported in (
        {"kinds": ["../x"], "name": "a"},
        {"kinds": "top5_stats", "name": "a"},
        {"kinds": [[]], "name": 3},
    ):
        (directory / "run.json").write_text(json.dumps(record | {"imported": imported}))
        with pytest.raises(ValueError, match="imported: expected a name and kinds"):
            Run.load(directory)


def test_a_file_that_is_too_large_is_not_read(published, tmp_path, capsys):
    with open(published / "json" / "Tiny-1B_top5_stats.json", "ab") as file:
        file.truncate((1 << 26) + 1)
    _, err = maxact("import", published, "-o", tmp_path, code=2, capsys=capsys)
    assert "67,108,865 bytes, expected at most" in err


def test_the_two_files_may_differ_and_it_is_said(tmp_path, capsys):
    sites = {"layer_0_hidden": top([310.0, 2.0])}
    write(tmp_path / "in", activation_stats=stats(), top5_stats=tops(per_layer_stats=sites))
    _, err = maxact("import", tmp_path / "in", "-o", tmp_path, capsys=capsys)
    assert "differ in the largest value in 1 of the sites, first layer_0_hidden" in err
