"""Shards of a run that were measured apart, made into the run that one measurement would have been. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from maxact_kernels.merge_arrays import merge_arrays
from maxact_kernels.storage import Arrays

from .groups import merge_groups
from .identity import differences
from .run import Run, Sites, token_of

_SHOWN = 10  # shards in a sentence


def merge_runs(shards: Iterable[tuple[str, Run]], note: Callable[[str], None] = lambda sentence: None) -> Run:
    """The run of these (name, shard), which are looked at one after another.

    `note` is told which shards are missing; the run is partial then. Raises ValueError if a shard does not belong to
    the first: it measured another model, corpus or option, or samples that another shard has, too.
    """
    held: dict[str, tuple] = {}
    parts: list[dict] = []  # the provenance of each
    holder: dict[int, str] = {}  # of each sample
    first = None
    for name, shard in shards:
        part = shard.provenance
        _check(name, part)
        first = first or (name, part)
        found = differences(part["identity"], first[1]["identity"], before_is=f"in {first[0]}")
        if found:
            raise ValueError(f"{name}: does not belong to {first[0]}: {found}")
        if part["shard"][1] != first[1]["shard"][1]:
            raise ValueError(f"{name}: one of {part['shard'][1]} shards, {first[0]} is one of {first[1]['shard'][1]}")
        for sample in part["samples"]:
            if sample["index"] in holder:
                raise ValueError(f"{name}: holds sample {sample['index']}, which {holder[sample['index']]} holds, too")
            holder[sample["index"]] = name
        for site, options, arrays in shard.sites.held():
            if site not in held:
                held[site] = options, Arrays({field: np.array(arrays[field]) for field in arrays})
            elif held[site][0] != options:
                raise ValueError(f"{name}: site {site} was measured with other options than in {first[0]}")
            else:
                merge_arrays(held[site][1], arrays, options)
        parts.append(part)
    if first is None:
        raise ValueError("merge: no runs were given")
    return Run(Sites(held), _provenance(parts, held, note))


def _check(name: str, part: dict) -> None:
    shard, samples = part.get("shard"), part.get("samples")
    right = isinstance(part.get("identity"), dict) and isinstance(shard, list) and len(shard) == 2
    right = right and all(type(number) is int for number in shard) and 1 <= shard[0] <= shard[1] <= 10**6
    right = right and isinstance(samples, list) and type(part.get("tokens_per_batch")) is int
    if not right or not all(isinstance(s, dict) and type(s.get("index")) is int for s in samples):
        raise ValueError(f"{name}: does not say which part of what measurement it is; measure it with maxact measure")


def _provenance(parts: list[dict], held: dict, note: Callable[[str], None]) -> dict:
    first = parts[0]
    there, n_shards = {part["shard"][0] for part in parts}, first["shard"][1]
    missing = [k for k in range(1, n_shards + 1) if k not in there]
    if missing:
        shown = ", ".join(map(str, missing[:_SHOWN])) + (" ..." if len(missing) > _SHOWN else "")
        note(f"{len(missing)} of {n_shards} shards are missing: {shown}; the run is partial.")
    groups = merge_groups(Run(Sites({}), part).groups() for part in parts)
    return (
        first
        | {
            "created": min(str(part.get("created")) for part in parts),
            "partial": bool(missing) or any(part.get("partial") for part in parts),
            "coverage": _coverage(first.get("coverage"), held),
            "corpus": first.get("corpus", {})
            | {"n_truncated": _sum(part.get("corpus", {}).get("n_truncated") for part in parts)},
            "n_samples": _sum(part.get("n_samples") for part in parts),
            "n_tokens": _sum(part.get("n_tokens") for part in parts),
            "samples": sorted((s for part in parts for s in part["samples"]), key=lambda s: s["index"]),
            "tokens_per_batch": min(part["tokens_per_batch"] for part in parts),
            "environment": _environment([part.get("environment", {}) for part in parts]),
            "wall_s": round(_sum(part.get("wall_s") for part in parts), 3),
            "shard": [1, 1],
            "token_text": _token_text(parts, held),
        }
        | ({"groups": groups} if groups else {})
    )


def _sum(numbers: Iterable) -> float:
    return sum(n for n in numbers if isinstance(n, (int, float)))


def _coverage(rows, held: dict) -> list:
    """A site fired if it did in any shard."""
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    rows = [row for row in rows if isinstance(row.get("missing"), list) and type(row.get("expected")) is int]
    missing = [[name for name in row["missing"] if name not in held] for row in rows]
    return [row | {"missing": names, "fired": row["expected"] - len(names)} for row, names in zip(rows, missing)]


def _environment(found: list[dict]) -> dict:
    """What all have; where they differ, each value once."""
    whole = {}
    for name in found[0]:
        values = list(dict.fromkeys(str(environment.get(name)) for environment in found))
        whole[name] = found[0][name] if len(values) == 1 else ", ".join(values)
    return whole


def _token_text(parts: list[dict], held: dict) -> dict:
    """Of the tokens in the merged top-k, in the order of sites."""
    known = {key: text for part in parts for key, text in part.get("token_text", {}).items()}
    found = {}
    for name, (_, arrays) in held.items():
        for token in np.unique(arrays["topk_token_ids"]).tolist():
            sample, position, _ = token_of(name, token)
            key = f"{sample}:{position}"
            if key in known:
                found[key] = known[key]
    return found
