"""What measuring large models takes: `python -m benchmarks.scale [states|files|merge ...]`, on a CPU; on GPUs
`torchrun --nproc-per-node N -m benchmarks.scale tokens`.

states  bytes of all states of a model on one device, from its shape alone
files   bytes of a run directory and a checkpoint of a 64-layer model, and the CPU time to write and read them
merge   CPU time to make one run of 1,000 shards, and the page of it
tokens  tokens per second of `measure` over N processes, against the bare forward passes of the same batches

Writes benchmarks/results/scale-DEVICE.csv, the rows of the parts that were run. scale_notes.md reckons with them.
"""

from __future__ import annotations

import csv
import re
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from maxact import measure
from maxact.checkpoint import Checkpoint
from maxact.corpus import Corpus, Sample
from maxact.experts import find_all_sites
from maxact.merging import merge_runs
from maxact.parallel import Team, join, leave, n_processes
from maxact.planning import Work, plan
from maxact.report import write_report
from maxact.run import Run
from maxact.split import Split
from maxact_kernels.fields import Options
from maxact_kernels.state import _layout

from .model_overhead import DEVICE, RESULTS, build

N_SAMPLES = 5000
# Shapes as the configs of published checkpoints have them. The last is of the order of 400B weights.
SHAPES = {
    "Qwen3-32B, 64 layers": ("qwen3", dict(hidden_size=5120, intermediate_size=25600, num_hidden_layers=64,
                             num_attention_heads=64, num_key_value_heads=8, head_dim=128)),
    "Qwen3-235B-A22B, 94 layers": ("qwen3_moe", dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=94,
                                   num_attention_heads=64, num_key_value_heads=4, head_dim=128, num_experts=128,
                                   moe_intermediate_size=1536, num_experts_per_tok=8, decoder_sparse_step=1)),
    "Qwen3-Coder-480B-A35B, 62 layers": ("qwen3_moe", dict(hidden_size=6144, intermediate_size=8192,
                                         num_hidden_layers=62, num_attention_heads=96, num_key_value_heads=8,
                                         head_dim=128, num_experts=160, moe_intermediate_size=2560,
                                         num_experts_per_tok=8, decoder_sparse_step=1)),
}  # fmt: skip


def widths(shape: str, sites: str) -> dict[str, int]:
    """Features at every site, from a forward pass that computes nothing."""
    model_type, changes = SHAPES[shape]
    config = AutoConfig.for_model(model_type, vocab_size=151936, **changes)
    found = {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()

        def see(site, x):
            x = x[0] if isinstance(x, (tuple, list)) and x else x
            found[site.name] = x.shape[-1] // (1 + site.first_half)

        for site in find_all_sites(model, sites).sites:
            module = model.get_submodule(site.path)
            if site.end == "product":
                found[site.name] = module.down_proj.shape[-1]
            elif site.end == "input":
                module.register_forward_pre_hook(
                    lambda m, args, kwargs, site=site: see(site, [*args, *kwargs.values()]), with_kwargs=True
                )
            else:
                module.register_forward_hook(lambda m, args, output, site=site: see(site, output))
        for layer in model.model.layers:
            if hasattr(layer.mlp, "experts"):
                layer.mlp.experts.forward = lambda hidden, *routed: hidden  # what comes of them has this shape
        whole = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        model.model(input_ids=torch.zeros(1, 8, dtype=torch.long), attention_mask=whole, use_cache=False)
    return found


def states() -> list[dict]:
    rows = []
    for shape in SHAPES:
        for sites in ("default", "gemm"):
            of_sites = widths(shape, sites)
            size = sum(_size(name, d, shape) for name, d in of_sites.items())
            rows.append(row("states", f"{shape}, {sites}, {len(of_sites)} sites", "bytes", size))
    return rows


def _size(name: str, d: int, shape: str) -> int:
    n_samples = SHAPES[shape][1]["num_experts"] if name.endswith("experts_act") else N_SAMPLES
    return _layout(Options(d, "bfloat16", n_samples=n_samples, int8_per_token=True))[1]


def files() -> list[dict]:
    """A run of real statistics: 128 tokens of noise with outliers at every site of a 64-layer model."""
    rows, shape = [], next(iter(SHAPES))
    probe = _filled(shape)
    with tempfile.TemporaryDirectory() as folder:
        run, run_s = timed(lambda: Run.from_probe(probe, _provenance()))
        _, save_s = timed(lambda: run.save(Path(folder) / "run"))
        _, load_s = timed(lambda: Run.load(Path(folder) / "run"))
        size = sum(path.stat().st_size for path in (Path(folder) / "run").iterdir())
        kept = Checkpoint(Path(folder) / "kept", {}, False, Team(Split()), print)
        _, keep_s = timed(lambda: kept.write(probe.all_states, [0], 1, 0.0))
        kept_size = sum(path.stat().st_size for path in (Path(folder) / "kept").iterdir())
    case = f"{shape}, default, {len(probe.states)} sites"
    for what, unit, value in [
        ("run directory", "bytes", size), ("run, from states and saved", "CPU seconds", run_s + save_s),
        ("run, loaded", "CPU seconds", load_s), ("checkpoint", "bytes", kept_size),
        ("checkpoint, written", "CPU seconds", keep_s),
    ]:  # fmt: skip
        rows.append(row(what, case, unit, value))
    return rows


class _Probe:
    """The states of a model that was not run."""

    def __init__(self, states):
        self.states = states
        self.all_states = {(name, None): state for name, state in states.items()}

    def coverage(self) -> list:
        return []

    def modules(self) -> dict:
        return {}

    def groups(self) -> dict:
        return {}


def _filled(shape: str) -> _Probe:
    from maxact_kernels import fused_probe

    found, generator = {}, torch.Generator().manual_seed(0)
    ids = torch.arange(128) << 32
    for i, (name, d) in enumerate(widths(shape, "default").items()):
        x = torch.randn(128, d, generator=generator) * (1 + i / 50)
        x[:, d // 3] *= 300
        x = x.bfloat16()
        found[name] = fused_probe(x, token_ids=ids, n_samples=N_SAMPLES, int8_per_token=True)
    return _Probe(found)


def _provenance() -> dict:
    samples = [{"index": i, "domain": "web", "n_tokens": 2048} for i in range(N_SAMPLES)]
    return {
        "identity": {}, "shard": [1, 1], "samples": samples, "tokens_per_batch": 8192, "n_samples": N_SAMPLES,
        "n_tokens": N_SAMPLES * 2048, "model": {"model_id": "noise"}, "corpus": {"name": "noise"},
        "environment": {}, "wall_s": 0.0, "created": "", "token_text": {},
    }  # fmt: skip


def merge(n: int = 1000) -> list[dict]:
    """Every shard is read from its files; they are the same files but for the samples, as 30 GB are not needed."""
    shape = next(iter(SHAPES))
    with tempfile.TemporaryDirectory() as folder:
        Run.from_probe(_filled(shape), _provenance()).save(Path(folder) / "shard")

        def shards():
            for k in range(n):
                run = Run.load(Path(folder) / "shard")
                samples = [
                    sample | {"index": k * N_SAMPLES + sample["index"]} for sample in run.provenance["samples"][:5]
                ]
                run.provenance |= {"shard": [k + 1, n], "samples": samples}
                yield str(k), run

        whole, merge_s = timed(lambda: merge_runs(shards()))
        whole.save(Path(folder) / "whole")
        _, report_s = timed(lambda: write_report([Path(folder) / "whole"], Path(folder) / "report.html"))
    case = f"{shape}, default, {n} shards"
    return [row("merge", case, "CPU seconds", merge_s), row("report of the merged run", case, "CPU seconds", report_s)]


class _Ids:
    """A corpus of ids needs no tokenizer but its size."""

    bos_token_id = chat_template = None

    def __len__(self) -> int:
        return 151936

    def decode(self, ids) -> str:
        return str(ids)


def tokens() -> list[dict]:
    """A batch of the plan is one forward pass of 8 x 2048 tokens; every process has sixteen of them."""
    rank, _ = join(DEVICE)
    name, length, n_rows = ("Qwen3-8B", 2048, 8) if DEVICE == "cuda" else ("tiny", 64, 4)
    model = build(name)
    generator = torch.Generator().manual_seed(0)
    n = 16 * n_rows * n_processes()
    ids = torch.randint(151936, (n, length), generator=generator).tolist()
    corpus = Corpus("random", [Sample(None, sample, "random") for sample in ids])
    options = dict(tokens_per_batch=n_rows * length, max_length=length)
    measure(model, _Ids(), Corpus("random", corpus.samples[: n_rows * n_processes()]), **options)  # to warm up
    bare_s = _bare(model, ids, options["tokens_per_batch"], rank)
    run = measure(model, _Ids(), corpus, **options)
    rows = []
    if rank == 0 and DEVICE == "cuda":  # on a CPU this only tries the code
        case = f"{name}, {n_processes()} {DEVICE} processes, batches of {n_rows}x{length}"
        rows.append(row("bare forward passes", case, "tokens per second", n * length / bare_s))
        rows.append(row("measure, all statistics", case, "tokens per second", n * length / run.provenance["wall_s"]))
    leave()
    return rows


def _bare(model, ids: list[list[int]], tokens_per_batch: int, rank: int) -> float:
    """Seconds until all processes have done the same forward passes, without a probe."""
    from maxact.encoding import Encoded

    encoded = [Encoded(sample, i, "", False) for i, sample in enumerate(ids)]
    work = Work(encoded, plan(encoded, tokens_per_batch), tokens_per_batch, (), rank, n_processes())
    if n_processes() > 1:
        dist.barrier()
    start = time.perf_counter()
    with torch.inference_mode():
        while (samples := work.next()) is not None:
            batch = torch.tensor([ids[i] for i in samples], device=DEVICE)
            model.get_decoder()(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)
            work.finish(samples)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    if n_processes() > 1:
        dist.barrier()
    return time.perf_counter() - start


def device_name() -> str:
    if DEVICE == "cuda":
        return torch.cuda.get_device_name()
    lines = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return next(lines, "model name: cpu").split(":")[1].strip()


def timed(function):
    """What it returns, and the seconds of one core that it took: nothing here waits or runs on several."""
    start = time.process_time()
    return function(), time.process_time() - start


def row(what: str, case: str, unit: str, value: float) -> dict:
    value = value if isinstance(value, int) else round(value, 3)
    return dict(device=device_name(), threads=torch.get_num_threads(), what=what, case=case, unit=unit, value=value)


def main() -> None:
    parts = {"states": states, "files": files, "merge": merge, "tokens": tokens}
    rows = []
    for part in sys.argv[1:] or ("states", "files", "merge"):
        for found in parts[part]():
            print(f"{found['what']}, {found['case']}: {found['value']:,} {found['unit']}", flush=True)
            rows.append(found)
    if not rows:
        return  # another process writes
    device = re.sub(r"[^a-z0-9]+", "-", device_name().lower().removeprefix("nvidia ")).strip("-")
    path = RESULTS / f"scale-{device}.csv"
    done = {(found["what"], found["case"]) for found in rows}
    old = list(csv.DictReader(path.open())) if path.exists() else []
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows([*(r for r in old if (r["what"], r["case"]) not in done), *rows])


if __name__ == "__main__":
    main()
