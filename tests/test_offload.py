"""Weights that accelerate keeps on the CPU or on disk: the sites have the bits that they have without."""

from __future__ import annotations

import pytest
import torch
from test_measure import TEXTS, Letters
from tiny_models import assert_same_bits, buffers, one_thread, random_ids, tiny  # noqa: F401

from maxact import measure
from maxact.hooks import attach
from maxact.offload import input_device
from maxact.sweep import sweep

accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
DEVICES = {
    "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk",
    "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk",
}  # fmt: skip


def to_cpu(model, folder):
    accelerate.cpu_offload(model, execution_device=CPU)


def to_disk(model, folder):
    accelerate.disk_offload(model, folder, execution_device=CPU)


def by_device_map(model, folder):
    accelerate.dispatch_model(model, DEVICES, main_device="cpu", offload_dir=folder, force_hooks=True)


WAYS = [to_cpu, to_disk, by_device_map]


def n_meta(model) -> int:
    return sum(parameter.is_meta for parameter in model.parameters())


def passes(model) -> None:
    ids, mask = random_ids(2, 6), torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    with torch.no_grad():
        model(ids, attention_mask=mask)
        model(ids, mask)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("order", ["offload first", "attach first"])
@pytest.mark.parametrize("offload", WAYS)
def test_every_site_has_the_bits_of_the_whole_model(tmp_path, offload, order, tied):
    model = tiny("llama", tie_word_embeddings=tied)
    with attach(model, "gemm") as plain:
        passes(model)
    if order == "offload first":
        offload(model, tmp_path)
        assert n_meta(model) > 0
    with attach(model, "gemm") as probe:
        if order == "attach first":
            offload(model, tmp_path)
        passes(model)
    assert_same_bits(buffers(probe), buffers(plain))


@pytest.mark.parametrize("offload", WAYS)
def test_measure_gives_the_same_run(tmp_path, offload):
    plain, model = measure(tiny("llama"), Letters(), TEXTS), tiny("llama")
    offload(model, tmp_path)
    assert input_device(model) == CPU and n_meta(model) > 0
    run = measure(model, Letters(), TEXTS)
    assert run.M == plain.M and run.groups() == plain.groups()
    for name in plain.sites:
        ours, theirs = run.sites[name]._arrays, plain.sites[name]._arrays
        assert all(ours[field].tobytes() == theirs[field].tobytes() for field in theirs), name


def test_sweep_gives_the_same_run(tmp_path):
    plain, model = sweep(tiny("llama"), Letters()), tiny("llama")
    to_disk(model, tmp_path)
    assert sweep(model, Letters()).provenance["sweep"] == plain.provenance["sweep"]


def test_weights_on_meta_are_computed_with_where_accelerate_says():
    model = tiny("llama").to("meta")
    assert input_device(model) == CPU  # without a hook nothing is known
    model.get_input_embeddings()._hf_hook = accelerate.hooks.SequentialHook(
        accelerate.hooks.ModelHook(), accelerate.hooks.AlignDevicesHook(execution_device="cuda:1")
    )
    assert input_device(model) == torch.device("cuda:1")
