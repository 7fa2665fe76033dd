"""What measuring costs a model: `python -m benchmarks.model_overhead [MODEL ...]`, on a GPU.

Whole forward passes in bfloat16 with random weights, bare, with `attach` on the default sites, with every expert of a
model that has experts besides, and with forward hooks on the default sites that compute the same in eager PyTorch.
Writes benchmarks/results/model-overhead-DEVICE.csv. Without a GPU it runs the model `tiny`, and writes nothing.
"""

from __future__ import annotations

import csv
import gc
import re
import statistics
import sys
import time
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
TINY = {"tiny": ("qwen3_moe", (2, 64), dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, head_dim=16,
                 num_attention_heads=4, num_key_value_heads=2, moe_intermediate_size=32, num_experts=8,
                 num_experts_per_tok=2, norm_topk_prob=True, decoder_sparse_step=1))}  # fmt: skip
TURNS = 4  # of each kind of pass
EAGER = "eager hooks, the same"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def build(name: str) -> torch.nn.Module:
    """The model with random weights, made on the device."""
    model_type, _, shape = (MODELS | TINY)[name]
    config = AutoConfig.for_model(model_type, vocab_size=VOCAB, max_position_embeddings=4096, **shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = model.to_empty(device=DEVICE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    with torch.device(DEVICE):  # buffers of the rotary embedding are computed, not loaded
        fresh = type(model.model.rotary_emb)(config)
    model.model.rotary_emb = fresh
    return model


def forward_seconds(model, shape: tuple[int, int], n: int) -> list[float]:
    """Times of n forward passes, after two to warm up. Each pass has tokens of its own, as a corpus has."""
    times = []
    with torch.inference_mode():
        for _ in range(n + 2):
            ids = torch.randint(VOCAB, shape, device=DEVICE)
            _synchronize()
            start = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            _synchronize()
            times.append(time.perf_counter() - start)
    return times[2:]


def _synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


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
    """The rows of one model: bare, with `attach`, with its experts too, with eager hooks. Medians; all but the last in turns,
    so that the card is as warm for one as for the other."""
    model = build(name)
    shape = (MODELS | TINY)[name][1]
    default = [site.name for site in find_sites(model).sites]
    attached = {"attach, all statistics": default}
    if "moe" in model.config.model_type:
        attached["attach, experts too"] = [*default, "*_experts_act"]
    n_sites = {"bare": len(default), EAGER: len(default)}
    times: dict[str, list[float]] = {"bare": [], **{what: [] for what in attached}}
    for _ in range(TURNS):
        times["bare"] += forward_seconds(model, shape, 3)
        for what, sites in attached.items():
            with attach(model, sites) as probe:
                n_sites[what] = len(probe.site_map.sites)
                times[what] += forward_seconds(model, shape, 3)
                probe.check()
    handles = add_eager_hooks(model)
    times[EAGER] = forward_seconds(model, shape, 2)
    for handle in handles:
        handle.remove()
    found = [(what, n_sites[what], statistics.median(of_passes)) for what, of_passes in times.items()]
    bare = found[0][-1]
    return [
        {
            "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
            "torch": torch.__version__,
            "model": name,
            "batch": f"{shape[0]}x{shape[1]}",
            "n_sites": n_sites,
            "what": what,
            "time_ms": round(seconds * 1e3, 2),
            "over_bare": round(seconds / bare - 1, 4),
        }
        for what, n_sites, seconds in found
    ]


def main() -> None:
    rows = []
    for name in sys.argv[1:] or (MODELS if DEVICE == "cuda" else TINY):
        of_model = overhead(name)
        rows += of_model
        for row in of_model:
            print(" ".join(str(v) for v in list(row.values())[2:]), flush=True)
        if DEVICE == "cpu":
            continue
        RESULTS.mkdir(exist_ok=True)
        device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower().removeprefix("nvidia ")).strip("-")
        with open(RESULTS / f"model-overhead-{device}.csv", "w", newline="") as file:  # after each: the next may not fit
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        gc.collect()  # 57 GiB of weights need the whole card: nothing of the last model may wait to be collected
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
