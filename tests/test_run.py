"""A run directory holds what was measured, whole or not at all, and a foreign or broken one is refused in a sentence."""

import json
import os

import numpy as np
import pytest
import torch

from maxact.run import Run, Sites, site_kind, site_layer
from maxact_kernels import fused_probe
from maxact_kernels.storage import Arrays


def held(x: torch.Tensor, **options):
    state = fused_probe(x, topk=7, int8_per_token=True, **options)
    return state.options, Arrays(state.host_arrays())


@pytest.fixture
def run() -> Run:
    torch.manual_seed(0)
    x = torch.randn(40, 32).bfloat16()
    ids = (torch.arange(40) // 10 << 32) + torch.arange(40) % 10
    x[13, 5] = -900.0  # sample 1, position 3
    large = x.clone()
    large[20, 9] = float("nan")
    sites = {
        "embedding_output": held(x / 2, token_ids=ids, n_samples=4),
        "layer_0_hidden": held(x, token_ids=ids, n_samples=4),
        "layer_0_moe_gate": held(torch.full((40, 8), 5000.0), token_ids=ids, n_samples=4),
        "layer_1_hidden": held(large, token_ids=ids, n_samples=4),
        "layer_1_mlp_act": held(x.float(), token_ids=ids, n_samples=4),
    }
    text = {"1:3": {"id": 7, "text": "[/red]\x1b[31m"}}
    return Run(Sites(sites), {"partial": False, "maxact": "0.1.0", "token_text": text, "coverage": []})


def test_m_is_the_largest_absmax_outside_routers_with_every_site_that_ties(run):
    assert run.M == 900.0
    assert [place.site for place in run.peaks()] == ["layer_0_hidden", "layer_1_hidden", "layer_1_mlp_act"]
    assert run.peaks()[0][1:5] == (1, 3, 5, -900.0)
    assert run.token_text(1, 3) == "[/red]\x1b[31m"
    assert run.token_text(0, 0) is None


def test_a_loaded_run_has_the_same_bits_as_the_saved_one(run, tmp_path):
    run.save(tmp_path / "r")
    loaded = Run.load(tmp_path / "r")
    assert list(loaded.sites) == list(run.sites)
    assert loaded.provenance == run.provenance
    for name in run.sites:
        ours, theirs = run.sites[name]._arrays, loaded.sites[name]._arrays
        assert ours.keys() == theirs.keys()
        for field in ours:
            assert ours[field].dtype == theirs[field].dtype and ours[field].tobytes() == theirs[field].tobytes()
    assert loaded.to_json() == run.to_json()


def test_run_json_is_strict_json_with_every_site_and_no_nan(run, tmp_path):
    run.save(tmp_path / "r")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads((tmp_path / "r" / "run.json").read_text(), parse_constant=refuse)
    assert record["schema"] == 1 and record["M"] == 900.0
    assert record["sites"]["layer_1_hidden"]["n_nan"] == 1
    assert record["sites"]["layer_1_hidden"]["first_nonfinite"] == [(2 << 32), 9]
    assert set(os.listdir(tmp_path / "r")) == {"run.json", "sites.safetensors"}


def test_a_run_is_not_overwritten_unless_asked_and_nothing_else_ever(run, tmp_path):
    run.save(tmp_path / "r")
    with pytest.raises(FileExistsError, match="--overwrite"):
        run.save(tmp_path / "r")
    run.provenance["partial"] = True
    run.save(tmp_path / "r", overwrite=True)
    assert Run.load(tmp_path / "r").partial
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a run directory"):
        run.save(tmp_path / "other", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["other", "r"]


def test_what_a_killed_process_left_of_a_run_goes_with_the_next_that_is_saved(run, tmp_path):
    for left in (".r-12-new", ".r-7-old", ".r2-12-new", ".r-x-new"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "run.json").write_text("{")
    run.save(tmp_path / "r")
    assert sorted(os.listdir(tmp_path)) == [".r-x-new", ".r2-12-new", "r"]


@pytest.mark.parametrize("failing", ["sites.safetensors", "run.json"])
def test_a_write_that_fails_leaves_the_old_run_and_nothing_half_written(run, tmp_path, monkeypatch, failing):
    run.save(tmp_path / "r")
    before = {name: (tmp_path / "r" / name).read_bytes() for name in os.listdir(tmp_path / "r")}
    import maxact.run as module

    real = module.write_atomically

    def full_disk(path, data):
        if path.name == failing:
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(module, "write_atomically", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run.save(tmp_path / "r", overwrite=True)
    with pytest.raises(OSError, match="No space left"):
        run.save(tmp_path / "new")
    assert os.listdir(tmp_path) == ["r"]
    assert {name: (tmp_path / "r" / name).read_bytes() for name in before} == before


def rewrite(directory, change):
    record = json.loads((directory / "run.json").read_text())
    change(record)
    (directory / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.update(schema=2), "schema 2, expected 1"),
        (lambda r: r.pop("schema"), "schema number"),
        (lambda r: r.update(model=[1]), "model: expected an object"),
        (lambda r: r.update(token_text="x"), "token_text: expected an object"),
        (lambda r: r.update(sites=[1]), "expected an object of named sites"),
        (lambda r: r["sites"].update({"a/../b": {}}), "expected an object of named sites"),
        (
            lambda r: r["sites"].update({"layer_9_hidden": {"options": {}}}),
            "layer_9_hidden: options: expected the keys",
        ),
        (lambda r: r["sites"]["layer_0_hidden"]["options"].update(d=31), "layer_0_hidden: channel_absmax"),
        (lambda r: r["sites"]["layer_0_hidden"]["options"].update(d="x"), "expected an integer"),
        (lambda r: r["sites"].pop("layer_0_hidden"), "of which run.json knows nothing"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_by_name(run, tmp_path, change, sentence):
    run.save(tmp_path / "r")
    rewrite(tmp_path / "r", change)
    with pytest.raises(ValueError, match=sentence) as caught:
        Run.load(tmp_path / "r")
    assert str(tmp_path / "r") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff\xfe"])
def test_a_record_that_is_no_json_is_refused(run, tmp_path, text):
    run.save(tmp_path / "r")
    (tmp_path / "r" / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="run.json: not readable as JSON"):
        Run.load(tmp_path / "r")


def test_tables_that_are_cut_or_foreign_are_refused(run, tmp_path):
    run.save(tmp_path / "r")
    tables = tmp_path / "r" / "sites.safetensors"
    whole = tables.read_bytes()
    for broken in (whole[: len(whole) // 2], np.random.default_rng(0).bytes(5000), b""):
        tables.write_bytes(broken)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            Run.load(tmp_path / "r")
    tables.unlink()
    with pytest.raises(FileNotFoundError):
        Run.load(tmp_path / "r")
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        Run.load(tmp_path)


def test_a_sample_index_outside_the_run_is_an_error_that_names_the_site():
    class Probed:
        states = {"layer_0_hidden": fused_probe(torch.ones(3, 4), token_ids=torch.tensor([0, 5 << 32, 1]), n_samples=2)}

        def coverage(self):
            return []

    with pytest.raises(ValueError, match="layer_0_hidden: token_ids: 1 tokens name a sample outside 0 .. 1"):
        Run.from_probe(Probed())


def test_names_of_sites_say_kind_and_layer():
    assert (site_kind("layer_12_mlp_output"), site_layer("layer_12_mlp_output")) == ("mlp_output", 12)
    assert (site_kind("layer_3_expert_17_act"), site_layer("layer_3_expert_17_act")) == ("act", 3)
    assert (site_kind("final_layernorm"), site_layer("final_layernorm")) == ("final_layernorm", None)


def test_reading_a_run_needs_no_pytorch(run, tmp_path):
    import subprocess
    import sys

    run.save(tmp_path / "r")
    code = (
        f"import sys; from maxact import Run; r = Run.load({str(tmp_path / 'r')!r}); print(r.M, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["900.0", "False"]
