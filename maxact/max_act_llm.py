"""A run as the files of the repository that arXiv 2605.15572 publishes (clx1415926/Max_act_llm), key for key.

Three files: single numbers by site, the largest values by site, and the INT-8 probe of the site of M. What a run has
beyond them is left out, and said.
"""

from __future__ import annotations

import json
import math
import re

from maxact_kernels.fields import FLOAT32_MAX
from maxact_kernels.summary import Summary

from .run import Run, site_kind, site_layer

# The order in which the parts of a layer come, there as in a forward pass.
KINDS = ("embedding_output", "attn_output", "moe_gate", "mlp_gate", "mlp_output", "hidden", "final_layernorm")
RANKED = ("embedding_output", "attn_output", "mlp_output", "hidden", "final_layernorm")  # with the Sun test, and in M
QUANTILES = {"median": 0.5, "q25": 0.25, "q75": 0.75, "q90": 0.9, "q99": 0.99, "q999": 0.999}
TOPK = 100


def files(run: Run) -> tuple[dict[str, str], list[str]]:
    """{file name: text} and what a reader must be told. Raises ValueError if the run lacks what the format is about."""
    if "imported" in run.provenance:
        texts = {f"{run.provenance['imported']['name']}_{name}": text for name, text in run.sites.files().items()}
        return texts, ["The run was imported from such files; they are written as they were read."]
    names = [name for name in run.sites if site_kind(name) in KINDS]
    sites = {name: run.sites[name] for name in sorted(names, key=_rank)}
    sites = {name: summary for name, summary in sites.items() if summary.n_elements}
    ranked = {name: summary for name, summary in sites.items() if site_kind(name) in RANKED}
    if not ranked:
        raise ValueError(f"max-act-llm: the run has none of the sites of this format ({', '.join(RANKED)})")
    head = _head(run, ranked)
    stats = {name: _numbers(name, summary) for name, summary in sites.items()}
    peak, location = _global_max(stats)
    tops = {name: _largest(summary) for name, summary in ranked.items()}
    five = sorted((pair for top in tops.values() for pair in zip(top["top5_abs"], top["top5_signed"])), reverse=True)
    overall = {
        "global_top5_abs": [absolute for absolute, _ in five[:TOPK]],
        "global_top5_signed": [signed for _, signed in five[:TOPK]],
        "global_top5_abs_mean": _mean([absolute for absolute, _ in five[:TOPK]]),
    }
    documents = {
        "activation_stats": head
        | {"global_max_activation": peak, "global_max_location": location, "per_layer_stats": stats},
        "top5_stats": head | overall | {"per_layer_stats": tops},
    }
    if peak:
        documents["quant_sanity"] = _probe(head, sites[location.partition(" ")[0]], peak, location)
    name = file_name(head["model_name"])
    texts = {f"{name}_{kind}.json": text_of(document) for kind, document in documents.items()}
    return texts, _notes(run, sites, abs(peak))


def text_of(document: dict) -> str:
    """As the published files are written: two spaces, no line end."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def file_name(model_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model_name).strip(".-")[:128] or "model"


def _rank(name: str) -> tuple[int, int]:
    layer, kind = site_layer(name), KINDS.index(site_kind(name))
    return (layer, kind) if layer is not None else (-1 if kind == 0 else 1 << 31, 0)


def _head(run: Run, ranked: dict[str, Summary]) -> dict:
    p, model, corpus = run.provenance, run.provenance.get("model", {}), run.provenance.get("corpus", {})
    model_id = str(model.get("model_id") or "model")
    return {
        "model_name": model_id.rstrip("/").rpartition("/")[2],
        "model_path": model_id,
        "model_type": str(model.get("model_type") or "unknown"),
        "num_hidden_layers": 1 + max((site_layer(name) for name in ranked if site_layer(name) is not None), default=-1),
        "hidden_size": next(iter(ranked.values())).options.d,
        "data_path": str(corpus.get("name") or "unknown"),
        "num_samples": _integer(p.get("n_samples")),
        "max_seq_len": _integer(corpus.get("max_length")),
    }


def _integer(value) -> int:
    return value if isinstance(value, int) else 0


def _numbers(name: str, summary: Summary) -> dict[str, float]:
    """The single numbers of a site; each is a float there, counts too, and 0 where it has no value."""
    try:
        values = {
            "mean": summary.mean,
            "std": summary.std,
            "abs_mean": summary.abs_mean,
            "rms": summary.rms,
            "max": summary.max,
            "min": summary.min,
            "count": summary.n_elements,
        }
        if site_kind(name) in RANKED:
            values |= {
                "sun_peak_abs": summary.absmax,
                "sun_peak_token_median": summary.peak_median,
                # There, and only here, a quotient in float64.
                "sun_peak_token_ratio": summary.absmax / summary.peak_median if summary.peak_median > 0 else 0.0,
                "sun_max_ratio": summary.ratio_max,
                "sun_max_ratio_abs": summary.ratio_max_absmax,
                "sun_max_ratio_median": summary.ratio_max_median,
                "sun_mean_ratio": summary.ratio_mean,
                "sun_std_ratio": summary.ratio_std,
                "sun_n_tokens": summary.n_tokens,
                "sun_n_pass": summary.n_massive_tokens,
                "sun_t_val": summary.options.t_abs,
                "sun_t_ratio": summary.options.t_ratio,
            }
            values |= {f"abs_{key}": summary.quantile(q) for key, q in QUANTILES.items()}
            values |= {
                "abs_hist_count": summary.n_elements,
                "abs_hist_zero_frac": summary.n_zero / summary.n_elements,
            }
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return {key: _finite(value) for key, value in values.items()}


def _finite(value: float) -> float:
    """A float that JSON has."""
    return 0.0 if math.isnan(value) else min(float(value), FLOAT32_MAX)


def _largest(summary: Summary) -> dict:
    signed = [float(value) for value in summary.topk.values[:TOPK]]
    absolute = [abs(value) for value in signed]
    return {
        "topk_abs": absolute,
        "topk_signed": signed,
        "top_k": len(signed),
        "topk_abs_mean": _mean(absolute),
        "topk_signed_mean": _mean(signed),
        "top5_abs": absolute[:5],
        "top5_signed": signed[:5],
        "top5_abs_mean": _mean(absolute[:5]),
        "top5_signed_mean": _mean(signed[:5]),
        "top10_abs": absolute[:10],
        "top10_signed": signed[:10],
        "top100_abs": absolute[:100],
        "top100_signed": signed[:100],
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _global_max(stats: dict[str, dict[str, float]]) -> tuple[float, str]:
    """The signed value of M and the first site that has it, its largest before its smallest value."""
    peak, location = 0.0, ""
    for name, values in stats.items():
        for end in ("max", "min") if site_kind(name) in RANKED else ():
            if abs(values[end]) > abs(peak):
                peak, location = values[end], f"{name} ({end})"
    return peak, location


def _probe(head: dict, summary: Summary, peak: float, location: str) -> dict:
    """The error of one INT-8 scale at the site of M, at its 0.999 quantile and at M."""
    site = location.partition(" ")[0]
    thresholds = {"max_abs": summary.absmax, "clip_q0.999": summary.quantile(0.999)}
    metrics = []
    for policy in sorted(thresholds):
        if thresholds[policy] > 0:
            error = summary.quantization_error("int8", thresholds[policy])
            values = {
                "mae": error.rel_mae * summary.abs_mean,
                "rmse": error.rel_rmse * summary.rms,
                "rel_mae": error.rel_mae,
                "rel_rmse": error.rel_rmse,
                "sqnr_db": error.sqnr_db,
                "clip_rate": error.clip_rate,
            }
            row = {"layer": site, "policy": policy, "count": summary.n_elements}
            metrics.append(row | {key: _finite(value) for key, value in values.items()})
    return {
        "model_name": head["model_name"],
        "family": head["model_type"],
        "role": "",
        "model_path": head["model_path"],
        "data_path": head["data_path"],
        "bits": 8,
        "clip_quantile": 0.999,
        "calibration_samples": head["num_samples"],
        "eval_samples": head["num_samples"],
        "max_seq_len": head["max_seq_len"],
        "layer_policy": "peak",
        "selected_layers": [site],
        "reference_global_max_abs": abs(peak),
        "reference_global_max_location": location,
        "thresholds": {policy: {site: threshold} for policy, threshold in thresholds.items()},
        "metrics": metrics,
    }


def _notes(run: Run, sites: dict[str, Summary], peak: float) -> list[str]:
    notes = []
    corpus = run.provenance.get("corpus", {})
    changed = [key for key in ("bos", "special_tokens", "chat_template") if corpus.get(key)]
    changed += ["skip_first"] if run.provenance.get("skip_first") else []
    if changed:
        notes.append(f"Measured with {', '.join(changed)}, as the published results were not; the files cannot say so.")
    if run.M != peak:
        notes.append(
            f"global_max_activation is {peak:g}, over hidden, attn_output, mlp_output, embedding_output and "
            f"final_layernorm as the format has it; the run's M, over all sites but routers, is {run.M:g}."
        )
    left_out = sorted({site_kind(name) for name in run.sites if name not in sites})
    if left_out:
        notes.append(f"Left out, as the format has no such sites or nothing was measured: {', '.join(left_out)}.")
    flat = [name for name, summary in sites.items() if summary.n_zero_median and site_kind(name) in RANKED]
    if flat:
        notes.append(
            f"Tokens have a median of 0 in {len(flat)} of the sites, first {flat[0]}: their ratio, infinite, is left out "
            "of sun_mean_ratio and stands as the largest float32 in sun_max_ratio."
        )
    if any(site_kind(name) == "moe_gate" for name in sites):
        notes.append("moe_gate holds router logits of real tokens; in published files, of some models, probabilities.")
    if any(not summary.exact for summary in sites.values()):
        notes.append("The run is in float32: abs_median and the other quantiles are upper ends of bins 2^-7 wide.")
    if any(summary.options.topk < TOPK for summary in sites.values()):
        notes.append(f"The run keeps fewer than {TOPK} of the largest values of a site; top_k says how many.")
    notes.append(
        "quant_sanity: thresholds and errors are of the same samples; the published ones are of 128 and 256 others."
    )
    notes.append("Not in this format: positions, channels, and the tables behind the quantiles.")
    return notes
