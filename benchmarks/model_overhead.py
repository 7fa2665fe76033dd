"""What measuring costs a model: `python -m benchmarks.model_overhead [MODEL ...]`, on a GPU.

Whole forward passes in bfloat16 with random weights, bare, with `attach` on the default sites, and with forward hooks
on the same sites that compute the same in eager PyTorch. Writes benchmarks/results/model-overhead-DEVICE.csv.
"""

from __future__ import annotations

import csv
import gc
import re
import statistics
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from maxact import attach
from maxact.sites import find_sites

from .baselines import eager

RESULTS = Path(__file__).parent / "results"
VOCAB = 151936
# Shapes as the configs of the published checkpoints have them; beside each its batch and length.
MODELS = {
    "Qwen3-0.6B": ("qwen3", (8, 2048), dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
                   num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True)),
    "Qwen3-8B": ("qwen3", (4, 2048), dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
                 num_attention_heads=32, num_key_value_heads=8, head_dim=128)),
    "Qwen3-30B-A3B": ("qwen3_moe", (4, 2048), dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=48,
                      num_attention_heads=32, num_key_value_heads=4, head_dim=128, moe_intermediate_size=768,
                      num_experts=128, num_experts_per_tok=8, norm_topk_prob=True, decoder_sparse_step=1)),
}  # fmt: skip


def build(name: str) -> torch.nn.Module:
    """The model with random weights, made on the GPU."""
    model_type, _, shape = MODELS[name]
    config = AutoConfig.for_model(model_type, vocab_size=VOCAB, max_position_embeddings=4096, **shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = model.to_empty(device="cuda").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    with torch.device("cuda"):  # buffers of the rotary embedding are computed, not loaded
        fresh = type(model.model.rotary_emb)(config)
    model.model.rotary_emb = fresh
    return model


def forward_seconds(model, ids: torch.Tensor, n: int = 7) -> float:
    """Median time of a forward pass, after two to warm up."""
    times = []
    with torch.inference_mode():
        for i in range(n + 2):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            model(input_ids=ids, use_cache=False)
            end.record()
            torch.cuda.synchronize()
            if i >= 2:
                times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def add_eager_hooks(model) -> list:
    """Forward hooks on the default sites that keep what eager PyTorch computes of each tensor."""
    kept: dict[str, dict] = {}
    handles = []
    for site in find_sites(model).sites:

        def hook(module, args, output, name=site.name):
            x = output[0] if isinstance(output, tuple) else output
            kept[name] = eager(x.detach().reshape(-1, x.shape[-1]))

        handles.append(model.get_submodule(site.path).register_forward_hook(hook))
    return handles


def overhead(name: str) -> list[dict]:
    """The rows of one model: bare, with `attach`, with eager hooks."""
    model = build(name)
    shape = MODELS[name][1]
    ids = torch.randint(VOCAB, shape, device="cuda")
    bare = forward_seconds(model, ids)
    with attach(model) as probe:
        probed = forward_seconds(model, ids)
        probe.check()
    again = forward_seconds(model, ids)
    handles = add_eager_hooks(model)
    hooked = forward_seconds(model, ids, 2)
    for handle in handles:
        handle.remove()
    bare = min(bare, again)
    return [
        {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "model": name,
            "batch": f"{shape[0]}x{shape[1]}",
            "n_sites": len(probe.states),
            "what": what,
            "time_ms": round(seconds * 1e3, 2),
            "over_bare": round(seconds / bare - 1, 4),
        }
        for what, seconds in (("bare", bare), ("attach, all statistics", probed), ("eager hooks, the same", hooked))
    ]


def main() -> None:
    device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower().removeprefix("nvidia ")).strip("-")
    RESULTS.mkdir(exist_ok=True)
    rows = []
    for name in sys.argv[1:] or MODELS:
        rows += overhead(name)
        for row in rows[-3:]:
            print(" ".join(str(v) for v in list(row.values())[2:]), flush=True)
        with open(RESULTS / f"model-overhead-{device}.csv", "w", newline="") as file:  # after each: the next may not fit
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        gc.collect()  # 57 GiB of weights need the whole card: nothing of the last model may wait to be collected
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
