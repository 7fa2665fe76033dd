"""Whether a file is one that arXiv 2605.15572's repository publishes. Others wrote it: nothing in it is trusted."""

from __future__ import annotations

import json
import math
from pathlib import Path

from maxact_kernels.fields import FLOAT32_MAX

from .run import is_name

KINDS = ("activation_stats", "top5_stats", "quant_sanity")

_MAX_BYTES, _MAX_SITES, _MAX_TEXT, _MAX_LIST = 1 << 26, 100_000, 4096, 1024
_TEXTS = ("model_name", "model_path", "model_type", "data_path")
_COUNTS = ("num_hidden_layers", "hidden_size", "num_samples", "max_seq_len")


def read(path: Path) -> dict:
    """A file's JSON object. Raises OSError, or ValueError with the path and the fault."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes, expected at most {_MAX_BYTES:,}")
    try:
        document = json.loads(path.read_bytes().decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return document


def check(kind: str, document: dict, others: dict[str, dict]) -> None:
    """Raise ValueError unless it is a document of this kind, of the model that the documents in `others` are of."""
    {"activation_stats": _check_stats, "top5_stats": _check_tops, "quant_sanity": _check_probe}[kind](document)
    for other in others.values():
        if document["model_name"] != other["model_name"]:
            raise ValueError(f"model_name: {document['model_name']!r}, expected {other['model_name']!r} as beside it")
    if kind == "top5_stats":
        unknown = document["per_layer_stats"].keys() - others["activation_stats"]["per_layer_stats"].keys()
        if unknown:
            raise ValueError(f"per_layer_stats: {min(unknown)!r} is not in the activation_stats file beside it")


def _check_stats(document: dict) -> None:
    _check_head(document, [*_TEXTS, "global_max_location"], [*_COUNTS, "global_max_activation"])
    for name, values in _sites(document).items():
        for key, value in values.items():
            if not is_name(key) or not _is_number(value):
                raise ValueError(f"{name}: {key[:40]!r}: expected a number, by a printable name")
        for key in ("max", "min", "count"):
            if key not in values:
                raise ValueError(f"{name}: {key} is missing")
        for key in ("max", "min"):
            if FLOAT32_MAX < abs(values[key]) < math.inf:
                raise ValueError(f"{name}: {key}: {values[key]}, expected a float32")
        for key in ("count", "sun_n_tokens", "sun_n_pass"):
            _check_count(f"{name}: {key}", values.get(key, 0))
        if not 0 <= values.get("abs_hist_zero_frac", 0) <= 1:
            raise ValueError(f"{name}: abs_hist_zero_frac: {values['abs_hist_zero_frac']}, expected 0 to 1")
        if values["max"] < values["min"]:
            raise ValueError(f"{name}: max {values['max']} is less than min {values['min']}")


def _check_tops(document: dict) -> None:
    _check_head(document, _TEXTS, [*_COUNTS, "global_top5_abs_mean"], ["global_top5_abs", "global_top5_signed"])
    for name, values in _sites(document).items():
        for key, value in values.items():
            if not is_name(key) or not (_is_number(value) or _is_list(value)):
                raise ValueError(f"{name}: {key[:40]!r}: expected a number or at most {_MAX_LIST} of them")
        which = "topk" if "topk_abs" in values else "top5"
        absolute, signed = (values.get(f"{which}_{part}") for part in ("abs", "signed"))
        if not isinstance(absolute, list) or not isinstance(signed, list) or len(absolute) != len(signed):
            raise ValueError(f"{name}: expected lists {which}_abs and {which}_signed of one length")
        if any(a != abs(s) for a, s in zip(absolute, signed) if not math.isnan(s)):
            raise ValueError(f"{name}: {which}_abs holds other magnitudes than {which}_signed")
        if any(a < b for a, b in zip(absolute, absolute[1:])):
            raise ValueError(f"{name}: {which}_abs: expected the largest first")


def _check_probe(document: dict) -> None:
    _check_head(document, ["model_name"], ["bits"], ["selected_layers", "thresholds", "metrics"])
    thresholds, metrics, layers = (document[key] for key in ("thresholds", "metrics", "selected_layers"))
    if not isinstance(layers, list) or not all(_is_text(name) for name in layers[:_MAX_SITES]):
        raise ValueError("selected_layers: expected names of sites")
    if not isinstance(thresholds, dict) or not all(
        is_name(policy) and isinstance(row, dict) and all(is_name(k) and _is_number(v) for k, v in row.items())
        for policy, row in thresholds.items()
    ):
        raise ValueError("thresholds: expected {policy: {site: number}}")
    if not isinstance(metrics, list) or len(metrics) > _MAX_SITES:
        raise ValueError(f"metrics: expected at most {_MAX_SITES} rows")
    for row in metrics:
        if not isinstance(row, dict) or not all(
            is_name(key) and (_is_text(value) if key in ("layer", "policy") else _is_number(value))
            for key, value in row.items()
        ):
            raise ValueError("metrics: expected rows of a layer, a policy and numbers")
        if missing := {"layer", "policy", "sqnr_db"} - row.keys():
            raise ValueError(f"metrics: a row without {min(missing)}")


def _check_head(document: dict, texts: list[str], numbers: list[str], others: list[str] = ()) -> None:
    """What stands above the sites: known keys of their types, unknown ones plain values."""
    for key in (*texts, *numbers, *others):
        if key not in document:
            raise ValueError(f"{key} is missing")
    for key, value in document.items():
        if not is_name(key):
            raise ValueError(f"{key[:40]!r}: expected a printable name")
        if key in texts and not _is_text(value):
            raise ValueError(f"{key}: expected text of at most {_MAX_TEXT} characters")
        if key in numbers and not _is_number(value):
            raise ValueError(f"{key}: expected a number")
        if key in _COUNTS:
            _check_count(key, value)
        if key in ("global_top5_abs", "global_top5_signed") and not _is_list(value):
            raise ValueError(f"{key}: expected at most {_MAX_LIST} numbers")
        if key not in (*others, "per_layer_stats") and not (value is None or _is_number(value) or _is_text(value)):
            raise ValueError(f"{key}: expected text or a number")


def _sites(document: dict) -> dict[str, dict]:
    sites = document.get("per_layer_stats")
    if not isinstance(sites, dict) or not 0 < len(sites) <= _MAX_SITES:
        raise ValueError(f"per_layer_stats: expected an object of 1 to {_MAX_SITES:,} sites")
    for name, values in sites.items():
        if not is_name(name) or not isinstance(values, dict):
            raise ValueError(f"per_layer_stats: {name[:40]!r}: expected an object by the name of a site")
    return sites


def _check_count(what: str, value) -> None:
    if not _is_number(value) or value != value // 1 or not 0 <= value < 2**63:
        raise ValueError(f"{what}: {value!r}, expected a whole number from 0")


def _is_number(value) -> bool:
    """nan and inf too: a model that overflows has them, and Python writes them so."""
    return type(value) is float or type(value) is int and abs(value) < 2**63


def _is_text(value) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT


def _is_list(value) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_LIST and all(map(_is_number, value))


def _object(pairs: list[tuple[str, object]]) -> dict:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object names a key twice")
    return made
