"""`maxact show RUN --kind experts`: what is known of each expert, from the run directory alone."""

import json

import pytest
import torch
from commands import maxact
from moe_models import tiny_moe
from tiny_models import one_thread, random_ids, tiny  # noqa: F401

from maxact.hooks import attach

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = tiny_moe("deepseek_v3")
    model.model.layers[1].mlp.gate.register_forward_hook(lambda router, args, out: (*out[:2], out[2] % 4))
    with torch.no_grad(), attach(model, "gemm", t_abs=4.0, t_ratio=5.0) as probe:
        model(random_ids(4, 16))
    folder = tmp_path_factory.mktemp("runs") / "moe"
    probe.run().save(folder)
    return folder


def test_a_row_a_layer_and_the_largest_experts(run, capsys):
    out, _ = maxact("show", run, "--kind", "experts", capsys=capsys)
    experts = json.loads((run / "run.json").read_text())["experts"]
    first, second = experts.values()
    lines = [line.split() for line in out.splitlines()]
    row = next(line for line in lines if line[:2] == ["1", "6"])
    largest, busiest = (first[key].index(max(first[key])) for key in ("absmax", "n_tokens"))
    assert float(row[2]) == pytest.approx(max(first["absmax"]), rel=1e-3) and row[3] == str(largest)
    assert row[5:7] == [str(max(first["n_tokens"])), str(busiest)]
    assert row[8:] == [
        str(sum(first["n_massive_tokens"])),
        str(sum(n > 0 for n in first["n_massive_tokens"])),
        "2:",
        "4,",
        "5",
    ]
    largest = max(second["absmax"])
    name = f"layer_2_expert_{second['absmax'].index(largest)}_act"
    assert largest > max(first["absmax"]) and next(line for line in lines if "_act" in str(line))[0] == name
    assert "layer_1_expert_4_act" not in out


def test_json_holds_every_expert(run, capsys):
    out, _ = maxact("show", run, "--json", capsys=capsys)
    experts = json.loads(out)["experts"]
    assert list(experts) == ["layer_1_experts_act", "layer_2_experts_act"]
    assert all(len(numbers) == 6 for of in experts.values() for numbers in of.values())


def test_a_run_without_experts_says_how_to_get_them(tmp_path, capsys):
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        model(random_ids(1, 4))
    probe.run().save(tmp_path / "dense")
    _, err = maxact("show", tmp_path / "dense", "--kind", "experts", code=2, capsys=capsys)
    assert "'experts' were not measured in this run; measure a model with experts with --sites gemm" in " ".join(
        err.split()
    )
