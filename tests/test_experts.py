"""What is known of each expert is what a loop over tokens and experts finds, however the model computes its experts."""

import json

import pytest
import torch
from moe_models import D_EXPERT, IMPLEMENTATIONS, MOES, N_EXPERTS, TOP_K, routed_rows, tiny_moe
from test_measure import Letters
from tiny_models import one_thread, random_ids  # noqa: F401

from maxact import Run
from maxact import measure as measure_corpus
from maxact.hooks import attach
from maxact.run import place_of

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = random_ids(3, 7)
LEFT = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1], [0] * 6 + [1]])
RIGHT = LEFT.flip(1)
OPTIONS = dict(t_abs=4.0, t_ratio=5.0, topk=20)


def measure(model, mask=None, sites=("*_experts_act",), **options):
    with torch.no_grad(), attach(model, sites, **OPTIONS | options) as probe:
        model(input_ids=IDS, attention_mask=mask)
    return probe


@pytest.mark.parametrize("mask", [None, LEFT, RIGHT], ids=["no mask", "left padding", "right padding"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("model_type", MOES)
def test_every_expert_has_its_largest_value_its_tokens_and_its_massive_tokens(model_type, implementation, mask):
    model = tiny_moe(model_type, implementation)
    expected = routed_rows(model, model_type, mask, input_ids=IDS)
    run = measure(model, mask).run()
    assert list(run.sites) == list(run.experts()) == [f"layer_{i}_experts_act" for i in MOES[model_type].layers]
    for layer, rows in expected.items():
        name = f"layer_{layer}_experts_act"
        of = [[row.product.abs() for row in rows if row.expert == e] for e in range(N_EXPERTS)]
        found = run.experts()[name]
        assert found["n_tokens"] == [len(products) for products in of]
        massive = [sum(bool(p.max() > 4.0 and p.max() / p.median() > 5.0) for p in products) for products in of]
        assert found["n_massive_tokens"] == massive
        peaks = [max((float(p.max()) for p in products), default=0.0) for products in of]
        assert found["absmax"] == pytest.approx(peaks, rel=1e-5)
        summary = run.sites[name]
        assert summary.n_tokens == len(rows) and summary.options.d == D_EXPERT
        assert (summary.n_massive_tokens, summary.absmax) == (sum(massive), max(found["absmax"]))
        assert 0 < sum(massive) < len(rows)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("model_type", MOES)
def test_the_largest_element_knows_its_expert_and_its_token(model_type, implementation):
    model = tiny_moe(model_type, implementation)
    rows = [row for of_layer in routed_rows(model, model_type, LEFT, input_ids=IDS).values() for row in of_layer]
    first = max(rows, key=lambda row: row.product.abs().max())
    (place,) = measure(model, LEFT).run().peaks()
    assert (place.sample, place.position, place.expert) == first[:3]
    assert place.feature == first.product.abs().argmax()
    assert place.value == pytest.approx(float(first.product[place.feature]), rel=1e-5)


def devices():
    no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    return pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])])


@devices()
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_listed_element_is_that_of_its_token_at_its_expert(implementation, device):
    """Many rows an expert, in bfloat16, which a GPU's grouped product takes: sorting may leave ties in any order."""
    model = tiny_moe("qwen3_moe", implementation, torch.bfloat16).to(device)
    ids = random_ids(4, 40).to(device)
    mask = (torch.arange(40) >= torch.tensor([[0], [7], [33], [21]])).long().to(device)
    rows = routed_rows(model, "qwen3_moe", mask, input_ids=ids)
    with torch.no_grad(), attach(model, ["*_experts_act"], topk=200) as probe:
        model(input_ids=ids, attention_mask=mask)
    run = probe.run()
    for layer, of_layer in rows.items():
        name = f"layer_{layer}_experts_act"
        product = {row[:3]: row.product.float().cpu() for row in of_layer}
        counts = [sum(row.expert == e for row in of_layer) for e in range(N_EXPERTS)]
        assert run.experts()[name]["n_tokens"] == counts
        for place in (place_of(name, run.sites[name], rank) for rank in range(200)):
            expected = product[place.sample, place.position, place.expert][place.feature]
            assert place.value == pytest.approx(float(expected), rel=0.05)


def test_what_no_implementation_rounds_differently_is_the_same_in_all():
    probes = [measure(tiny_moe("mixtral", implementation), LEFT) for implementation in IMPLEMENTATIONS]
    tokens = [[state.fields["sample_tokens"].tolist() for state in probe.states.values()] for probe in probes]
    assert tokens[0] == tokens[1] == tokens[2]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_expert_that_saw_no_token_has_zeros(implementation):
    model = tiny_moe("qwen3_moe", implementation)
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda router, args, out: (*out[:2], out[2] % 4))
    for experts in measure(model).run().experts().values():
        assert sum(experts["n_tokens"]) == IDS.numel() * TOP_K
        assert all(n > 0 for n in experts["n_tokens"][:4]) and all(v > 0 for v in experts["absmax"][:4])
        assert [experts[key][4:] for key in ("absmax", "n_tokens", "n_massive_tokens")] == [[0, 0]] * 3


def test_samples_are_batched_as_one_likes():
    """The ids of rows do not depend on the batch, so neither does any bit."""
    model = tiny_moe("deepseek_v3", "eager")
    with torch.no_grad(), attach(model, ["*_experts_act"], topk=20) as parts:
        for i in range(3):
            parts.batch(sample_ids=torch.tensor([i]))
            model(input_ids=IDS[i : i + 1])
    with torch.no_grad(), attach(model, ["*_experts_act"], topk=20) as whole:
        model(input_ids=IDS)
    tables = ("sample_tokens", "topk_token_ids", "topk_features", "n_tokens")
    for name, state in whole.states.items():
        for table in tables:
            assert torch.equal(parts.states[name].fields[table], state.fields[table]), (name, table)


def test_a_sample_or_position_beyond_65534_is_not_named():
    model = tiny_moe("mixtral")
    with torch.no_grad(), attach(model, ["layer_0_experts_act"]) as probe:
        probe.batch(sample_ids=torch.tensor([65534, 65535, 2**31 - 1]))
        model(input_ids=IDS)
    run = probe.run()
    places = [place_of("layer_0_experts_act", run.sites["layer_0_experts_act"], rank) for rank in range(100)]
    assert {place.sample for place in places} == {65534, None}
    assert {place.position for place in places} <= set(range(7)) and {place.expert for place in places} <= set(range(6))
    assert sum(run.experts()["layer_0_experts_act"]["n_tokens"]) == IDS.numel() * TOP_K


def test_a_run_directory_holds_the_experts_and_what_it_claims_of_them_is_not_believed(tmp_path):
    run = measure(tiny_moe("mixtral"), LEFT).run()
    run.save(tmp_path / "r")
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["experts"] == run.experts() and "expert" in record["peaks"][0]
    record["experts"] = {"layer_0_experts_act": "many"}
    (tmp_path / "r" / "run.json").write_text(json.dumps(record))
    again = Run.load(tmp_path / "r")
    assert again.experts() == run.experts() and again.peaks() == run.peaks()


def test_measuring_a_corpus_names_the_tokens_of_experts():
    sites = ["*_experts_act", "layer_1_hidden"]
    run = measure_corpus(tiny_moe("qwen3_moe"), Letters(), ["abcd", "efghab"], sites=sites)
    assert len(run.sites["layer_1_hidden"].sample_absmax) == 2
    for name, experts in run.experts().items():
        assert len(experts["absmax"]) == N_EXPERTS and sum(experts["n_tokens"]) == 10 * TOP_K
        place = place_of(name, run.sites[name], 0)
        letter = ["abcd", "efghab"][place.sample][place.position]
        assert run.token_text(place.sample, place.position) == f"<{3 + ord(letter) % 30}>"
