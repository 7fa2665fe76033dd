"""Models of which each process holds a part are measured as one process measures them whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import processes
import pytest
import torch
import torch.distributed as dist
from test_cli import model_directory  # noqa: F401
from test_data_parallel import without_hardware
from test_measure import Faulty, Letters
from test_resume import TEXTS, files
from tiny_models import one_thread, tiny  # noqa: F401
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from maxact import attach, load_model, measure
from maxact.run import Run
from maxact.split import Split, split_of

pytestmark = pytest.mark.usefixtures("one_thread")

N = 2
MOE = dict(num_local_experts=4, num_experts_per_tok=2)
MODELS = {"llama": {}, "phi3": {}, "mixtral": MOE}
OPTIONS = dict(sites="gemm", tokens_per_batch=20, topk=9)


def tensor_parallel(place: Path, name: str, **more):
    return AutoModelForCausalLM.from_pretrained(place / f"model-{name}", dtype=torch.float32, **more).eval()


def in_each(rank: int, place: str) -> dict:
    place = Path(place)
    for name in MODELS:
        model = tensor_parallel(place, name, tp_plan="auto")
        measure(model, Letters(), TEXTS, **OPTIONS).save(place / f"tp-{name}-{rank}")
    kept = place / "kept"
    measure(model, Letters(), TEXTS[:2], **OPTIONS, checkpoint=kept)
    refused = ""
    with Faulty(model, lambda calls, output: calls == 2, torch.OutOfMemoryError("CUDA out of memory")):
        try:
            measure(model, Letters(), TEXTS, **OPTIONS, checkpoint=kept)
        except torch.OutOfMemoryError as error:
            refused = str(error)
    measure(model, Letters(), TEXTS, **OPTIONS, checkpoint=kept, resume=True).save(place / f"resumed-{rank}")

    loaded = load_model(place / "model-with-tokenizer", split="tensors", device="cpu")
    measure(loaded.model, loaded.tokenizer, ["a b c", "d e"], sites="gemm").save(place / f"loaded-{rank}")

    from transformers.distributed import DistributedConfig

    model = tensor_parallel(place, "mixtral", distributed_config=DistributedConfig(tp_size=N, ep_size=N))
    measure(model, Letters(), TEXTS, **OPTIONS).save(place / f"ep-{rank}")

    model = tiny("llama", torch.bfloat16)
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    odd = TEXTS[: len(TEXTS) - 1]
    measure(model, Letters(), odd, **OPTIONS).save(place / f"fsdp-{rank}")
    return dict(refused=refused, n_parts=len(list(kept.glob("*.safetensors"))))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("split")


@pytest.fixture(scope="module")
def results(place, model_directory):  # noqa: F811
    shutil.copytree(model_directory, place / "model-with-tokenizer")
    for name, changes in MODELS.items():
        tiny(name, **changes).save_pretrained(place / f"model-{name}")
    return processes.run(in_each, N, str(place))


def assert_measured_alike(split: Run, whole: Run) -> None:
    """Sums over shards are rounded in another order: values agree to 1e-4, and what is counted exactly."""
    assert list(split.sites) == list(whole.sites)
    for name in whole.sites:
        mine, theirs = split.sites[name], whole.sites[name]
        assert (mine.n_tokens, mine.n_elements) == (theirs.n_tokens, theirs.n_elements), name
        assert mine.options == theirs.options
        for field in ("absmax", "channel_absmax", "sample_absmax"):
            a, b = torch.tensor(getattr(mine, field)), torch.tensor(getattr(theirs, field))
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), (name, field)
    for name in ("embedding_output", "layer_0_attn_input"):  # nothing was split before them
        assert split.sites[name].counts.tobytes() == whole.sites[name].counts.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_tensor_parallel_counts_what_is_replicated_once_and_puts_shards_together(results, place, name):
    whole = measure(tensor_parallel(place, name), Letters(), TEXTS, **OPTIONS)
    for rank in range(N):
        split = Run.load(place / f"tp-{name}-{rank}")
        assert_measured_alike(split, whole)
        assert split.provenance["n_tokens"] == sum(map(len, TEXTS))
    if name == "mixtral":
        assert split.experts() and split.sites["layer_0_experts_act"].options.n_samples == 4


def test_every_process_of_one_copy_knows_the_same(results, place):
    for name in (*(f"tp-{name}" for name in MODELS), "ep"):
        assert files(place / f"{name}-0") == files(place / f"{name}-1")


def test_load_model_splits_tensors_over_processes_and_layers_over_devices(results, place, model_directory):  # noqa: F811
    pytest.importorskip("accelerate")
    layers = load_model(model_directory, split="layers")
    for loaded in (layers, load_model(model_directory)):
        whole = measure(loaded.model, loaded.tokenizer, ["a b c", "d e"], sites="gemm")
        split = Run.load(place / "loaded-0")
        assert split.provenance["n_tokens"] == whole.provenance["n_tokens"] == 5
        assert split.sites["layer_0_mlp_act"].options == whole.sites["layer_0_mlp_act"].options
        assert abs(split.M - whole.M) <= 2**-6 * whole.M  # bfloat16 rounds sums over shards at 2^-8 each
    with pytest.raises(ValueError, match="^split: tensors are split over processes; start them with torchrun"):
        load_model(model_directory, split="tensors")
    with pytest.raises(ValueError, match="split: 'pipes', expected layers or tensors"):
        load_model(model_directory, split="pipes")


def test_one_of_them_writes_the_checkpoint(results, place):
    assert [result["n_parts"] for result in results] == [1, 1]
    for rank in range(N):
        assert files(place / f"resumed-{rank}") == files(place / "tp-mixtral-0")


def test_batches_of_a_split_model_are_not_halved_in_one_process(results):
    for result in results:
        assert "lower tokens_per_batch (--tokens-per-batch)" in result["refused"]


def test_expert_parallel_measures_every_expert_once(results, place):
    whole = measure(tensor_parallel(place, "mixtral"), Letters(), TEXTS, **OPTIONS)
    for rank in range(N):
        split = Run.load(place / f"ep-{rank}")
        assert_measured_alike(split, whole)
        for name, experts in whole.experts().items():
            assert split.experts()[name]["n_tokens"] == experts["n_tokens"]
            assert sum(experts["n_tokens"]) == 2 * sum(map(len, TEXTS)) and min(experts["n_tokens"]) > 0
            assert split.experts()[name]["absmax"] == pytest.approx(experts["absmax"], rel=1e-4)


def test_fsdp_has_the_bits_of_one_process_also_when_batches_do_not_share_out_evenly(results, place):
    model = tiny("llama", torch.bfloat16)
    measure(model, Letters(), TEXTS[: len(TEXTS) - 1], **OPTIONS).save(place / "unsharded")
    whole = without_hardware(files(place / "unsharded"))
    for rank in range(N):
        mine = without_hardware(files(place / f"fsdp-{rank}"))
        assert mine[0] == whole[0]
        for key in mine[1].keys() - {"identity", "model"}:  # sharded weights are in no digest
            assert mine[1][key] == whole[1][key], key


def test_a_split_that_cannot_be_measured_right_is_an_error(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda *group: 4)
    model = tiny("llama")
    assert split_of(model) == Split()
    model._tp_size = 2
    with pytest.raises(ValueError, match="tensor parallel over 2 of 4 processes, expected one of them over all"):
        split_of(model)
    with pytest.raises(ValueError, match="tensor parallel over 2 of 4 processes"):
        attach(model)


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="offloads what does not fit on a GPU")
@pytest.mark.gpu
def test_layers_on_the_cpu_and_on_the_gpu_are_measured_where_they_are(place, results):
    device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 0, "model.rotary_emb": 0}
    device_map |= {"model.layers.2": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    split = measure(tensor_parallel(place, "llama", device_map=device_map), Letters(), TEXTS, **OPTIONS)
    assert_measured_alike(split, measure(tensor_parallel(place, "llama").to("cuda"), Letters(), TEXTS, **OPTIONS))
