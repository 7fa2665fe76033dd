"""Every model type of the table, tiny: the sites written down, and each tensor recomputed from its neighbours."""

from __future__ import annotations

import re
from functools import lru_cache, partial

import pytest
import torch
import transformers
from architecture_table import ARCHITECTURES, CHANGED, REFUSED
from architectures import is_known, tiny
from expected_sites import KINDS
from torch import nn
from torch.nn import functional as F

from maxact.hooks import attach
from maxact.sites import find_sites
from maxact_kernels import fused_probe

UP = {"gate_proj": "up_proj", "w1": "w3", "wi_0": "wi_1"}  # elsewhere one projection makes both, the gate first
ACTS = {"silu": F.silu, "gelu": F.gelu, "tanh": partial(F.gelu, approximate="tanh"), "relu": F.relu}
every_type = pytest.mark.parametrize("model_type", ARCHITECTURES)


def with_(letter: str):
    return pytest.mark.parametrize("model_type", [name for name, row in ARCHITECTURES.items() if letter in row.kinds])


class Pass:
    """One forward pass with padding: what the probe saw, and what the test's own hooks saw go in and out."""

    def __init__(self, model_type: str):
        self.architecture = ARCHITECTURES[model_type]
        self.model = tiny(model_type)
        self.site_map = find_sites(self.model, "gemm")
        self.layers = self.model.get_submodule(self.architecture.layers)
        self.inputs, self.outputs = {}, {}
        handles = [module.register_forward_hook(self._record, with_kwargs=True) for module in self.model.modules()]
        ids = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0))
        mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
        tokens = dict(input_ids=ids, attention_mask=mask)
        if self.site_map.has_encoder:
            tokens |= dict(decoder_input_ids=ids[:, :5], decoder_attention_mask=mask[:, :5])
            mask = mask[:, :5]
        with torch.no_grad(), attach(self.model, "gemm", topk=1) as self.probe:
            self.model(**tokens)
        for handle in handles:
            handle.remove()
        self.mask, self.token_ids = mask.bool(), torch.tensor([[0], [1]]) << 32 | torch.arange(mask.shape[1])

    def _record(self, module, args, kwargs, output):
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
        self.inputs.setdefault(module, tensors[0].clone() if tensors else None)
        first = output if isinstance(output, torch.Tensor) else output[0]
        self.outputs.setdefault(module, first.clone() if isinstance(first, torch.Tensor) else first)

    def module(self, layer: int, path: str) -> nn.Module:
        return self.layers[layer].get_submodule(path)

    def saw(self, site: str, x: torch.Tensor) -> bool:
        """Whether the site's state is, bit for bit, the one of this tensor."""
        x = x.reshape(*self.mask.shape, -1).contiguous()
        state = fused_probe(x, mask=self.mask, token_ids=self.token_ids, topk=1)
        return torch.equal(self.probe.states[site].buffer, state.buffer)


@lru_cache(maxsize=1)  # conftest.py has the tests of a model type follow each other
def passed(model_type: str) -> Pass:
    if transformers.__version__ < "5.23" and (not is_known(model_type) or model_type in CHANGED):
        pytest.skip(f"transformers {transformers.__version__} has no such model, or another")
    return Pass(model_type)


@every_type
def test_sites_are_those_written_down_and_each_sees_every_token_once(model_type):
    run = passed(model_type)
    assert run.site_map.layers == run.architecture.layers
    assert [site.name for site in run.site_map.sites] == run.architecture.sites(len(run.layers))
    run.probe.check()
    for site in run.site_map.sites:
        assert run.probe.states[site.name].summary().n_tokens == int(run.mask.sum())


@every_type
def test_hidden_is_what_the_next_layer_reads_and_the_end_is_what_the_decoder_gives(model_type):
    run = passed(model_type)
    for i in range(len(run.layers) - 1):
        read = run.inputs[run.layers[i + 1]]
        streams_first = read.ndim == 4 and read.shape[:2] != run.mask.shape
        assert run.saw(f"layer_{i}_hidden", read.movedim(0, 2) if streams_first else read)
    decoder = run.model.get_submodule(run.site_map.decoder)
    last, end = f"layer_{len(run.layers) - 1}_hidden", run.outputs[decoder]
    if "f" in run.architecture.ends:
        assert run.saw("final_layernorm", end)
        if not run.architecture.merged:
            assert run.saw(last, run.inputs[run.model.get_submodule(run.architecture.norm)])
    elif not run.architecture.merged:
        assert run.saw(last, end)


@pytest.mark.parametrize("model_type", [name for name, row in ARCHITECTURES.items() if row.added is not None])
def test_what_attention_and_mlp_give_is_what_is_added(model_type):
    run = passed(model_type)
    paths = {site.name: site.path for site in run.site_map.sites}
    for i, (steps, layer) in enumerate(zip(run.architecture.steps(len(run.layers)), run.layers, strict=True)):
        x = run.inputs[layer]
        for step in steps:
            what, _, norm = step[1:].partition("~")
            if step.startswith("|"):  # the residual stream itself goes through a norm
                x = layer.get_submodule(what)(x)
                continue
            site = f"layer_{i}_{KINDS[what]}"
            y = run.outputs[run.model.get_submodule(paths[site])]
            assert run.saw(site, y)
            y = y.reshape(x.shape)
            x = x + (layer.get_submodule(norm)(y) if norm else y)
        hidden = run.outputs[layer]
        torch.testing.assert_close(x, hidden, rtol=1e-4, atol=1e-4 * float(hidden.abs().max()))


@with_("d")
def test_mlp_act_is_what_the_down_projection_reads(model_type):
    run = passed(model_type)
    for i, kinds in enumerate(run.architecture.of_layers(len(run.layers))):
        if "d" in kinds:
            down = run.layers[i].get_submodule(run.architecture.down)
            assert run.saw(f"layer_{i}_mlp_act", run.inputs[down])
            assert run.saw(f"layer_{i}_mlp_output", run.outputs[down])


@with_("g")
def test_mlp_gate_is_what_the_activation_reads_and_times_up_it_is_mlp_act(model_type):
    run = passed(model_type)
    sites = {site.name: site for site in run.site_map.sites}
    for i, kinds in enumerate(run.architecture.of_layers(len(run.layers))):
        if "g" not in kinds:
            continue
        above, _, name = sites[f"layer_{i}_mlp_gate"].path.rpartition(".")
        gate, product = run.outputs[run.model.get_submodule(f"{above}.{name}")], run.inputs[_down(run, i)]
        if name in UP:
            up = run.outputs[run.model.get_submodule(f"{above}.{UP[name]}")]
        else:
            gate, up = gate.chunk(2, -1)
        assert run.saw(f"layer_{i}_mlp_gate", gate)
        if run.architecture.gated is not None:
            torch.testing.assert_close(ACTS[run.architecture.gated](gate) * up, product, rtol=1e-5, atol=1e-5)


@with_("o")
def test_o_input_is_what_the_output_projection_makes_attn_output_of(model_type):
    run = passed(model_type)
    for site in run.site_map.sites:
        if site.kind == "o_input":
            projection = run.model.get_submodule(site.path)
            assert run.saw(site.name, run.inputs[projection])
            assert run.saw(site.name.replace("o_input", "attn_output"), run.outputs[projection])


@with_("D")
def test_a_shared_expert_is_an_mlp_of_its_own(model_type):
    run = passed(model_type)
    for site in run.site_map.sites:
        if site.kind == "shared_expert_act":
            down = run.model.get_submodule(site.path)
            assert run.saw(site.name, run.inputs[down])
            assert run.saw(site.name.replace("_act", "_output"), run.outputs[down])


@with_("r")
def test_moe_gate_is_logits(model_type):
    run = passed(model_type)
    for site in run.site_map.sites:
        if site.kind == "moe_gate" and run.architecture.router:
            router = run.model.get_submodule(site.path)
            with torch.no_grad():
                logits = F.linear(run.inputs[router].float(), *_linear(router)).view(*run.mask.shape, -1)[run.mask]
            seen = torch.from_numpy(run.probe.states[site.name].summary().channel_absmax)
            torch.testing.assert_close(seen, logits.abs().amax(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_measured_right_is_an_error_that_says_why(model_type):
    model = tiny(model_type)
    ids = torch.arange(5, 19).view(2, 7)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=re.escape(REFUSED[model_type])), torch.no_grad():
        with attach(model, "gemm") as probe:
            model(ids, **dict(decoder_input_ids=ids) if probe.site_map.has_encoder else {})
        probe.check()


def _down(run: Pass, layer: int) -> nn.Module:
    return run.layers[layer].get_submodule(run.architecture.down)


def _linear(router: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The matrix of a router, and its bias."""
    found = {name.rpartition(".")[2]: p.float() for name, p in router.named_parameters()}
    return found["weight"], found.get("bias")
