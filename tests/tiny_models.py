"""Tiny random models, one row a family, each with where its parts are: written down by hand, not asked of maxact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

N_LAYERS, HIDDEN, INNER, VOCAB = 3, 64, 96, 40
PAD = 0

_SHAPE = dict(
    hidden_size=HIDDEN,
    intermediate_size=INNER,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=VOCAB,
    max_position_embeddings=64,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=2,
)
_GEMMA = dict(head_dim=16, **_SHAPE)
_gelu = partial(F.gelu, approximate="tanh")


@dataclass(frozen=True)
class Family:
    """One model type. Module names are as its source in transformers has them."""

    config: dict = field(default_factory=lambda: _SHAPE)
    decoder: str = "model"
    layers: str = "layers"
    embedding: str = "embed_tokens"
    norm: str = "norm"
    attention: str = "self_attn"
    query: str = "q_proj"
    output: str = "o_proj"
    mlp: str = "mlp"
    up: str = "up_proj"
    gate: str | None = "gate_proj"  # None: the MLP has none
    down: str = "down_proj"
    fused: bool = False  # gate and up in one projection, the gate first
    act: Callable = F.silu
    scale: float = 1.0  # of the embedding
    positions: str | None = None  # a position embedding that is added to the token's
    norms: tuple[str | None, str | None] = (None, None)  # through which attention and MLP output reach the residual

    def default_kinds(self) -> list[str]:
        """The kinds of a layer's sites, in the order in which the model computes them."""
        return ["attn_output", *["mlp_gate"] * (self.gate is not None), "mlp_output", "hidden"]

    def gemm_kinds(self) -> list[str]:
        gate = ["mlp_gate"] * (self.gate is not None)
        return ["attn_input", "o_input", "attn_output", "mlp_input", *gate, "mlp_act", "mlp_output", "hidden"]


_SANDWICH = ("post_attention_layernorm", "post_feedforward_layernorm")

FAMILIES = {
    "llama": Family(),
    "qwen2": Family(),
    "qwen3": Family(_SHAPE | dict(head_dim=16)),
    "gemma": Family(_GEMMA, act=_gelu, scale=8.0),
    "gemma2": Family(_GEMMA, act=_gelu, scale=8.0, norms=_SANDWICH),
    "gemma3_text": Family(_GEMMA, act=_gelu, scale=8.0, norms=_SANDWICH),
    "mistral": Family(),
    "smollm3": Family(),
    "olmo2": Family(norms=_SANDWICH),
    "phi3": Family(query="qkv_proj", up="gate_up_proj", gate="gate_up_proj", fused=True),
    "gpt2": Family(
        dict(n_embd=HIDDEN, n_layer=N_LAYERS, n_head=4, n_positions=64, vocab_size=VOCAB, pad_token_id=PAD),
        decoder="transformer",
        layers="h",
        embedding="wte",
        norm="ln_f",
        attention="attn",
        query="c_attn",
        output="c_proj",
        up="c_fc",
        gate=None,
        down="c_proj",
        positions="wpe",
    ),
}


def tiny(model_type: str, dtype: torch.dtype = torch.float32, **changes) -> PreTrainedModel:
    """A random model of this type, the same each time; `changes` are to its config."""
    family = FAMILIES.get(model_type, Family())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **family.config | changes)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for parameter in model.parameters():  # the library's own deviation of 0.02 would leave every layer near zero
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            else:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return model.eval()


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Token ids without the padding token."""
    return torch.randint(PAD + 1, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def one_thread():
    """Threads cost such small models more time than they save, and much more where other work runs beside."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


EMBEDDING = ["embedding_output"]


def ids_of(probe, site: str = "embedding_output") -> list[tuple[int, int]]:
    """(sample, position) of every token that a site saw; attach with a topk that holds all its elements."""
    tokens = probe.states[site].summary().topk.token_ids
    return sorted({(int(token) >> 32, int(token) & 0xFFFFFFFF) for token in tokens})


def grid(samples, n_positions: int, start: int = 0) -> list[tuple[int, int]]:
    return [(sample, position) for sample in samples for position in range(start, start + n_positions)]


def buffers(probe) -> dict[str, torch.Tensor]:
    return {name: state.buffer.clone() for name, state in probe.states.items()}


def assert_same_bits(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert list(mine) == list(theirs)
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name
