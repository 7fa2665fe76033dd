"""A CUDA graph of a forward pass with a probe attached: each replay is measured, and names its own tokens."""

from __future__ import annotations

import pytest
import torch
from tiny_models import assert_same_bits, random_ids, tiny

from maxact.hooks import attach
from maxact_kernels import ProbeState, fused_probe

pytestmark = pytest.mark.gpu

N_ROWS, N_TOKENS, N_REPLAYS = 2, 6, 5


class Captured:
    """A forward pass of a tiny decoder as a graph, with the tensors that each replay reads and writes."""

    def __init__(self, attached, name_samples: bool = False):
        self.probe, self.model = attached, attached.model
        self.ids = random_ids(N_ROWS, N_TOKENS).cuda()
        self.samples = torch.arange(N_ROWS, device="cuda") if name_samples else None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # as PyTorch asks for: what is made on the first call is made outside the graph
            self.warm = [x.clone() for x in self.forward()]
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.hidden = self.forward()

    def forward(self):
        if self.samples is not None:
            self.probe.batch(sample_ids=self.samples)
        return self.model.model(self.ids, use_cache=False, output_hidden_states=True).hidden_states

    def replay(self, seed: int):
        self.ids.copy_(random_ids(N_ROWS, N_TOKENS, seed=seed).cuda())
        self.graph.replay()
        return self.hidden


@pytest.fixture(scope="module")
def model():
    return tiny("llama", torch.bfloat16).cuda()


SITES = ("embedding_output", "layer_0_hidden", "layer_1_hidden", "final_layernorm")  # those that hidden_states holds


def by_hand(passes: list, first_samples: list[int], n_samples: int) -> dict[str, torch.Tensor]:
    """The states of these hidden states, named by hand."""
    states: dict[str, ProbeState] = {}
    for hidden, first in zip(passes, first_samples, strict=True):
        names = (torch.arange(first, first + N_ROWS)[:, None] << 32 | torch.arange(N_TOKENS)).cuda()
        for site, x in zip(SITES, hidden, strict=True):
            if site in states:
                states[site].update(x, None, names)
            else:
                states[site] = fused_probe(x, token_ids=names, n_samples=n_samples)
    return {site: state.buffer for site, state in states.items()}


def test_every_replay_counts_and_numbers_its_samples_on(model):
    n_samples = N_ROWS * (1 + N_REPLAYS)
    with torch.no_grad(), attach(model, n_samples=n_samples, position_0=True) as probe:
        captured = Captured(probe)
        passes = [captured.warm]  # the capture itself runs nothing
        for seed in range(N_REPLAYS):
            passes.append([x.clone() for x in captured.replay(seed)])
    expected = by_hand(passes, [N_ROWS * i for i in range(len(passes))], n_samples)
    assert_same_bits({site: probe.states[site].buffer for site in SITES}, expected)
    for name, state in probe.states.items():
        summary = state.summary()
        assert summary.n_tokens == n_samples * N_TOKENS, name
        assert (summary.sample_absmax > 0).all(), name
    assert probe.groups()["position_0"]["layer_0_hidden"]["n_tokens"] == n_samples


def test_a_replay_names_the_samples_that_its_tensor_then_holds(model):
    named = [0, 6, 2, 8, 4]
    with torch.no_grad(), attach(model, n_samples=10) as probe:
        captured = Captured(probe, name_samples=True)
        passes = [captured.warm]
        for first in named[1:]:
            captured.samples.copy_(torch.arange(first, first + N_ROWS))
            passes.append([x.clone() for x in captured.replay(first)])
    assert_same_bits({site: probe.states[site].buffer for site in SITES}, by_hand(passes, named, 10))


def test_replays_after_detach_still_count_and_a_forward_pass_does_not(model):
    """What is in the graph is there for good: the states, which the probe keeps, are what it was captured with."""
    with torch.no_grad():
        with attach(model) as probe:
            captured = Captured(probe)
        before = probe.states["layer_0_hidden"].summary().n_tokens
        model.model(captured.ids, use_cache=False)
        assert probe.states["layer_0_hidden"].summary().n_tokens == before
        captured.replay(0)
    assert probe.states["layer_0_hidden"].summary().n_tokens == before + N_ROWS * N_TOKENS


def test_a_capture_before_any_forward_pass_is_an_error(model):
    ids = random_ids(N_ROWS, N_TOKENS).cuda()
    with torch.no_grad():
        model.model(ids, use_cache=False)  # what PyTorch itself makes on the first call
        torch.cuda.synchronize()
        with attach(model) as probe:
            with pytest.raises(RuntimeError, match="^a CUDA graph is being captured .*; run the model once before"):
                with torch.cuda.graph(torch.cuda.CUDAGraph()):
                    model.model(ids, use_cache=False)
            torch.cuda.synchronize()
            assert probe.states == {}
            model.model(ids, use_cache=False)
    probe.check()
    assert probe.states["layer_0_hidden"].summary().n_tokens == N_ROWS * N_TOKENS


def test_hooks_wait_for_nothing(model):
    """Padding, packed rows, groups and skipped tokens included."""
    ids = random_ids(N_ROWS, N_TOKENS).cuda()
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]]).cuda()
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 0, 0]]).cuda()
    inputs = model.get_input_embeddings()(ids)
    seen = []

    class Site(torch.nn.Module):
        def forward(self, inputs_embeds, attention_mask, position_ids):
            return self.layers[0](inputs_embeds)

        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Identity()])

    bare = Site()
    for options in (dict(position_0=True), dict(skip_first=2)):
        with torch.no_grad(), attach(bare, ["layer_0_hidden"], **options) as probe:
            for _ in range(2):
                probe.batch(mask, groups={"odd": ids % 2 == 1})
                if probe.states:
                    torch.cuda.synchronize()
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    bare(inputs, mask, position_ids)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        seen.append(probe.states["layer_0_hidden"].summary().n_tokens)
    assert seen == [2 * 10, 2 * (2 + 1)]
