"""Scales by module name are those that SmoothQuant and compressed-tensors would have found on the same tokens."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch
from small_runs import noise, run_of, with_peak
from test_modules import largest_by_module
from tiny_models import N_LAYERS, random_ids, tiny

from maxact.export_scales import SCHEMES, channel_absmax, input_scales, smoothquant


def at(*paths, end="input"):
    return {"end": end, "paths": list(paths)}


@pytest.fixture
def run():
    tensors = {"layer_0_attn_input": noise(), "layer_0_mlp_act": with_peak(-60.0), "layer_0_hidden": with_peak(900.0)}
    modules = {"layer_0_attn_input": at("m.0.q_proj", "m.0.k_proj"), "layer_0_mlp_act": at("m.0.down_proj")}
    return run_of(tensors, modules=modules | {"layer_0_hidden": at("m.0", end="output")})


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2"])
def test_act_scales_are_what_hooks_on_every_linear_module_find(model_type):
    seen, run = largest_by_module(tiny(model_type), random_ids(3, 4))
    files, notes = smoothquant(run)
    scales = safetensors.numpy.load(files["act_scales.safetensors"])
    del seen["lm_head"]
    assert scales.keys() == seen.keys() and len(scales) >= 4 * N_LAYERS
    for path, expected in seen.items():
        assert scales[path].dtype == np.float32
        np.testing.assert_array_equal(scales[path], expected.numpy(), strict=True)
    assert any("lm_head is not among them" in sentence for sentence in notes)


def test_a_module_that_several_layers_share_has_the_largest_of_all(run):
    run.provenance["modules"]["layer_0_mlp_act"] = at("m.0.q_proj")
    scales = safetensors.numpy.load(smoothquant(run)[0]["act_scales.safetensors"])
    both = [run.sites[f"layer_0_{kind}"].channel_absmax for kind in ("attn_input", "mlp_act")]
    np.testing.assert_array_equal(scales["m.0.q_proj"], np.maximum(*both))
    scales = safetensors.numpy.load(input_scales(run)[0]["input_scales.safetensors"])
    assert scales["m.0.q_proj.input_scale"] == np.float32(60 / 448)


def observed_scale(x: torch.Tensor, quantize: str) -> torch.Tensor:
    """A min-max observer's symmetric scale, as compressed-tensors computes it."""
    low, high = (-128, 127) if quantize == "int8" else (-448.0, 448.0)
    return torch.maximum(x.float().amax(), -x.float().amin()) / ((high - low) / 2)


@pytest.mark.parametrize("quantize", SCHEMES)
def test_input_scales_are_those_of_a_min_max_observer(quantize, run):
    files, _ = input_scales(run, quantize=quantize)
    scales = safetensors.numpy.load(files["input_scales.safetensors"])
    assert scales.keys() == {f"m.0.{name}_proj.input_scale" for name in ("q", "k", "down")}
    for name, x in (("q", noise()), ("k", noise()), ("down", with_peak(-60.0))):
        scale = scales[f"m.0.{name}_proj.input_scale"]
        assert (scale.shape, scale.dtype) == ((1,), np.float32)
        assert scale[0] == observed_scale(x, quantize).numpy()
    assert metadata(files["input_scales.safetensors"])["format"] == "pt"  # transformers loads no other


def metadata(data: bytes) -> dict:
    """That of a safetensors file: its header is JSON after eight bytes that say how long it is."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("quantize", SCHEMES)
def test_compressed_tensors_has_a_place_for_each_of_them(quantize):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    _, run = largest_by_module(tiny("llama"), random_ids(2, 5))
    files, _ = input_scales(run, quantize=quantize)
    arguments = QuantizationArgs(**json.loads(files["input_activations.json"])["input_activations"])
    scheme = QuantizationScheme(targets=["Linear"], input_activations=arguments, weights=arguments)
    model = tiny("llama")
    apply_quantization_config(model, QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"]))
    places = {name: tensor.shape for name, tensor in model.state_dict().items() if name.endswith("input_scale")}
    scales = safetensors.numpy.load(files["input_scales.safetensors"])
    assert {name: scale.shape for name, scale in scales.items()} == places


@pytest.mark.parametrize("threshold", ["max", "q0.9", "mse", 2.5])
def test_a_threshold_by_choice_is_that_of_the_summary_with_its_error_beside(threshold, run):
    files, _ = input_scales(run, quantize="int8", threshold=threshold)
    scheme = json.loads(files["input_activations.json"])
    assert scheme["input_activations"] == {
        "num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": True, "dynamic": False
    }  # fmt: skip
    summary = run.sites["layer_0_mlp_act"]
    error = summary.quantization_error("int8", threshold)
    row = scheme["sites"]["layer_0_mlp_act"]
    scale = error.threshold / 127.5
    x = with_peak(-60.0).double()
    quantized = (x / scale).round().clamp(-128, 127) * scale
    sqnr_db = 10 * torch.log10(x.square().sum() / (x - quantized).square().sum()).item()
    assert row["threshold"] == error.threshold and sqnr_db - 0.2 < row["sqnr_db"] <= sqnr_db + 1e-12
    if threshold == "max":
        assert row["sqnr_db"] == pytest.approx(sqnr_db, rel=1e-12)
    assert row["zeroed"] == ((quantized == 0) & (x != 0)).sum() / (x != 0).sum()
    assert row["int8_per_token_db"] == summary.int8_per_token.sqnr_db and row["absmax_by_rms"] == 60 / summary.rms
    scales = safetensors.numpy.load(files["input_scales.safetensors"])
    assert scales["m.0.down_proj.input_scale"] == np.float32(error.threshold / 127.5)


def test_an_input_of_zeros_has_a_scale_that_can_be_divided_by():
    run = run_of({"layer_0_mlp_act": torch.zeros(1, 2, 8)}, modules={"layer_0_mlp_act": at("m.down_proj")})
    scales = safetensors.numpy.load(input_scales(run)[0]["input_scales.safetensors"])
    assert scales["m.down_proj.input_scale"] == np.finfo(np.float32).eps


def test_experts_are_left_out_and_it_is_said(run):
    experts = run_of(
        {"layer_0_mlp_act": noise(), "layer_0_experts_act": noise()},
        modules={"layer_0_mlp_act": at("m.down_proj"), "layer_0_experts_act": at("m.experts")},
    )
    files, notes = smoothquant(experts)
    assert safetensors.numpy.load(files["act_scales.safetensors"]).keys() == {"m.down_proj"}
    assert any("(1 sites) is left out" in sentence for sentence in notes)


def test_channel_absmax_holds_every_site_by_name(run):
    arrays = safetensors.numpy.load(channel_absmax(run)[0]["channel_absmax.safetensors"])
    assert arrays.keys() == run.sites.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, run.sites[name].channel_absmax, strict=True)


@pytest.mark.parametrize(
    ("modules", "sentence"),
    [
        (None, "older than that record, or was imported; measure the model again with --sites gemm"),
        ([], "older than that record"),
        ({}, "no inputs of projections; measure the model again with --sites gemm"),
        ({"layer_0_mlp_act": at("m", end="output")}, "no inputs of projections"),
        ({"layer_0_mlp_act": at()}, "modules: layer_0_mlp_act: expected paths of modules"),
        ({"layer_0_mlp_act": at("x\n")}, "expected paths of modules"),
        ({"layer_0_mlp_act": at(7)}, "expected paths of modules"),
        ({"layer_0_mlp_act": "m"}, "expected paths of modules"),
    ],
)
def test_a_run_without_module_names_is_refused_with_what_to_do(modules, sentence):
    run = run_of({"layer_0_mlp_act": noise()}, **{} if modules is None else {"modules": modules})
    for form in (smoothquant, input_scales):
        with pytest.raises(ValueError, match=sentence):
            form(run)


def test_a_format_that_no_scheme_has_is_refused(run):
    with pytest.raises(ValueError, match="^quantize: 'int3', expected one of int8, fp8_e4m3$"):
        input_scales(run, quantize="int3")
