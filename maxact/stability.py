"""Is M the maximum? What one run's per-sample vectors say about more samples, fewer and others. Needs no PyTorch.

Everything here is exact: no subset is drawn where its distribution can be written down. With the N measured samples'
largest |x| in order, x_1 <= ... <= x_N, and a random subset of n of them without replacement,

    P(max <= x_k) = C(k, n) / C(N, n)              P(max = x_k) = C(k-1, n-1) / C(N, n)

(order statistics of a finite population: H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed., 2003, section 3.7).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .corpus import DEFAULT_DOMAIN
from .proportion import proportional
from .run import ROUTERS, Run, matching, site_kind
from .words import percent

SATURATED = 0.01  # growth of the expected M over the last doubling below which a run counts as saturated
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PAPER_SHARES, PAPER_REPEATS = (0.2, 0.4), 5  # 1,000 and 2,000 of 5,000 samples, five times each
OTHER_ROWS = (*ROUTERS, "experts_act")  # logits do not count; an expert's rows are named by expert, not by sample


class Samples(NamedTuple):
    """The measured samples of a run."""

    index: np.ndarray  # [N] int64, of each in its corpus
    domain: np.ndarray  # [N] str


class Subsets(NamedTuple):
    """All subsets of n of the samples."""

    n: int
    weights: np.ndarray  # `subset_weights`
    cdf: np.ndarray  # `subset_cdf`


def stability(run: Run, patterns: Sequence[str] = ()) -> dict:
    """How M depends on the samples that were measured: a JSON-able dict. patterns: M of these sites only (fnmatch).

    - `n_samples`; `M` over the sites that know samples, `n_near` of the samples come within 1 % of it
    - `curve`: a dict for each number of samples n (N and its halves): `n`, the `mean`, `cv` and `quantiles` of M over
      random subsets of n; the cv at n = 1 is that of single samples
    - `growth_per_doubling`: M / (expected M of half the samples) - 1; `saturated`: whether that is below 1 %
    - `bootstrap`: percentile interval `low`, `high` of M over N samples drawn with replacement, in closed form
    - `exceeding_share`: with 95 % confidence no larger share of samples like these exceeds M
    - `paper`: subsets as arXiv 2605.15572 drew them (`paper_subsets`)
    - `domains`: for each domain n_samples, M, growth_per_doubling; `sites`: for each site absmax, growth_per_doubling,
      n_near and its `curve`
    - `left_out`: sites of experts, which know experts instead of samples, and `left_out_M`; `verdict`: all of this in a sentence

    Raises ValueError if the run has no per-sample vectors or fewer than two measured samples, or for a pattern that
    matches no site with such vectors.
    """
    samples = measured_samples(run)
    names = matching(_sites(run), patterns)
    vectors = {name: run.sites[name].sample_absmax[samples.index].astype(np.float64) for name in names}
    M = np.max(list(vectors.values()), axis=0)  # noqa: N806  [N]
    n = len(M)
    if n < 2:
        raise ValueError(f"stability: this run measured {n} samples, expected at least 2")
    subsets = all_subsets(n)
    growth = growth_per_doubling(M)
    left_out = [name for name in run.sites if site_kind(name) == "experts_act" and not patterns]
    near = int((M >= 0.99 * M.max()).sum())
    found = {
        "n_samples": n,
        "M": float(M.max()),
        "n_near": near,
        "curve": curve(M, subsets),
        "growth_per_doubling": growth,
        "saturated": growth < SATURATED,
        "bootstrap": bootstrap_interval(M),
        "exceeding_share": exceeding_share(n),
        "paper": paper_subsets(M, samples.domain),
        "domains": _by_domain(M, samples.domain),
        "sites": {name: _of_site(x, subsets) for name, x in vectors.items()},
        "left_out": left_out,
        "left_out_M": max((run.sites[name].absmax for name in left_out), default=0.0),
    }
    return found | {"verdict": _verdict(found)}


def measured_samples(run: Run) -> Samples:
    """The samples that the run measured, by index, each with its domain.

    Measured are those with a token at some site; `samples` in run.json says their domains, where the run comes from a
    corpus. ValueError if the run has no per-sample vectors.
    """
    names = _sites(run)
    if not names:
        raise ValueError(
            "stability: this run does not tell samples apart; use `maxact measure`, or attach with n_samples"
        )
    n_samples = run.sites[names[0]].options.n_samples
    index = np.flatnonzero(np.max([run.sites[name].sample_tokens for name in names], axis=0))
    listed = run.provenance.get("samples", [])
    if not isinstance(listed, list) or not all(_is_sample(row, n_samples) for row in listed):
        raise ValueError(f"samples: expected a list of objects with a domain and an index of 0 to {n_samples - 1}")
    domains = {row["index"]: row["domain"] for row in listed}
    return Samples(index, np.array([domains.get(i, DEFAULT_DOMAIN) for i in index.tolist()]))


def largest_by_domain(run: Run) -> dict[str, float]:
    """M over the samples of each domain."""
    samples = measured_samples(run)
    M = np.max([run.sites[name].sample_absmax[samples.index] for name in _sites(run)], axis=0)  # noqa: N806
    return {name: float(M[samples.domain == name].max()) for name in sorted(set(samples.domain.tolist()))}


def halvings(n: int) -> list[int]:
    """n, half of it (rounded up), half of that, ... 1; ascending."""
    sizes = [n]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes[::-1]


def subset_weights(n: int, n_all: int) -> np.ndarray:
    """P(the largest of n out of n_all is the k-th smallest), k = 1 .. n_all: C(k-1, n-1) / C(n_all, n). [n_all]

    By its recurrence from the top, P_N = n / N and P_(k-1) = P_k (k - n) / (k - 1): products of factors below 1, so
    that nothing overflows and relative errors stay near n_all * 2^-53.
    """
    k = np.arange(n_all, 1, -1)
    return np.cumprod(np.concatenate([[n / n_all], np.maximum(k - n, 0) / (k - 1)]))[::-1]


def subset_cdf(n: int, n_all: int) -> np.ndarray:
    """P(the largest of n out of n_all is at most the k-th smallest), k = 0 .. n_all: C(k, n) / C(n_all, n). [n_all + 1]"""
    k = np.arange(n_all, 0, -1)
    return np.cumprod(np.concatenate([[1.0], np.maximum(k - n, 0) / k]))[::-1]


def all_subsets(n_all: int) -> list[Subsets]:
    return [Subsets(n, subset_weights(n, n_all), subset_cdf(n, n_all)) for n in halvings(n_all)]


def curve(values: np.ndarray, subsets: Sequence[Subsets]) -> list[dict]:
    """Mean, coefficient of variation and quantiles of the largest of n values, for each n, over all subsets."""
    x = np.sort(values)
    rows = []
    for n, weights, cdf in subsets:
        mean, deviation = _moments(x, weights)
        at = np.searchsorted(cdf[1:], np.array(QUANTILES) * (1 - 1e-12))
        quantiles = {f"{q:g}": float(x[min(k, len(x) - 1)]) for q, k in zip(QUANTILES, at)}
        rows.append({"n": n, "mean": mean, "cv": deviation / mean if mean else 0.0, "quantiles": quantiles})
    return rows


def growth_per_doubling(values: np.ndarray) -> float | None:
    """max / (expected max of a random half) - 1: what the last doubling of the samples brought. None for one value."""
    x = np.sort(values)
    if len(x) < 2:
        return None
    half = float(x @ subset_weights((len(x) + 1) // 2, len(x)))
    return float(x[-1]) / half - 1 if half else 0.0


def bootstrap_interval(values: np.ndarray, level: float = 0.95) -> dict:
    """The percentile interval of the maximum under the bootstrap, N draws with replacement: P(max <= x_k) = (k / N)^N.

    The ideal bootstrap, of infinitely many resamples (B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap,
    1993, chapters 13 and 7.4). Its upper end is the maximum itself, which it repeats with probability 1 - (1 - 1/N)^N,
    63.2 % for large N: for maxima the bootstrap is known not to be consistent, so this says how much M hangs on single
    samples, and nothing about what other samples could bring; `exceeding_share` does.
    """
    x, n = np.sort(values), len(values)
    cdf = (np.arange(1, n + 1) / n) ** n
    low, high = (
        float(x[min(np.searchsorted(cdf, q * (1 - 1e-12)), n - 1)]) for q in ((1 - level) / 2, (1 + level) / 2)
    )
    return {"level": level, "low": low, "high": high, "repeats_max": float(1 - (1 - 1 / n) ** n)}


def exceeding_share(n: int, confidence: float = 0.95) -> float:
    """The share p of the population that, with this confidence, holds all samples above the largest of n.

    (1 - p)^n = 1 - confidence, whatever the distribution (S. S. Wilks, Determination of sample sizes for setting
    tolerance limits, 1941); about 3 / n. It presumes samples drawn independently from the population.
    """
    return 1 - (1 - confidence) ** (1 / n)


def paper_subsets(values: np.ndarray, domain: np.ndarray) -> list[dict]:
    """Subsets of 20 % and 40 % in the proportions of the domains, five of each, as arXiv 2605.15572 drew them.

    It took 1,000 and 2,000 of its 5,000 samples, without replacement (its "bootstrap"), and what its table calls CV is
    (largest - smallest) / mean of the five: here `range_over_mean`. `mean` and `cv` are those of all such subsets: with
    n_c of the N_c samples of domain c, P(max <= v) is the product of C(k_c(v), n_c) / C(N_c, n_c). `draws`: five of
    them, by the seeds 0 to 4.
    """
    x, rows = np.sort(values), []
    for share in PAPER_SHARES:
        quota = proportional(Counter(domain.tolist()), max(1, round(share * len(values))))
        cdf = np.ones(len(x))
        for name, n in quota.items():
            part = np.sort(values[domain == name])
            cdf *= subset_cdf(n, len(part))[np.searchsorted(part, x, side="right")]
        mean, deviation = _moments(x, np.diff(cdf, prepend=0.0))
        draws = [_draw(values, domain, quota, seed) for seed in range(PAPER_REPEATS)]
        rows.append(
            {
                "n": sum(quota.values()),
                "mean": mean,
                "cv": deviation / mean if mean else 0.0,
                "draws": draws,
                "range_over_mean": (max(draws) - min(draws)) / np.mean(draws).item() if max(draws) else 0.0,
            }
        )
    return rows


def _draw(values: np.ndarray, domain: np.ndarray, quota: dict[str, int], seed: int) -> float:
    random = np.random.default_rng(seed)
    parts = [random.choice(values[domain == name], n, replace=False) for name, n in quota.items()]
    return float(np.concatenate(parts).max())


def _moments(x: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    mean = float(x @ weights)
    return mean, math.sqrt(float((x - mean) ** 2 @ weights))


def _of_site(values: np.ndarray, subsets: Sequence[Subsets]) -> dict:
    largest = float(values.max())
    return {
        "absmax": largest,
        "growth_per_doubling": growth_per_doubling(values),
        "n_near": int((values >= 0.99 * largest).sum()),
        "curve": curve(values, subsets),
    }


def _by_domain(M: np.ndarray, domain: np.ndarray) -> dict[str, dict]:  # noqa: N803
    found = {}
    for name in sorted(set(domain.tolist())):
        x = M[domain == name]
        found[name] = {"n_samples": len(x), "M": float(x.max()), "growth_per_doubling": growth_per_doubling(x)}
    return found


def _sites(run: Run) -> list[str]:
    return [
        name
        for name in run.sites
        if site_kind(name) not in OTHER_ROWS and run.sites[name].options.n_samples and run.sites[name].n_elements
    ]


def _is_sample(row, n_samples: int) -> bool:
    return (
        isinstance(row, dict)
        and type(row.get("index")) is int
        and 0 <= row["index"] < n_samples
        and isinstance(row.get("domain"), str)
    )


def _verdict(found: dict) -> str:
    n, growth = found["n_samples"], found["growth_per_doubling"]
    near = f"{found['n_near']:,} of {n:,} samples reach 99 % of M"
    step = f"from {(n + 1) // 2:,} to {n:,} samples the expected M grows by {percent(growth, '.2f')}"
    if found["saturated"]:
        return f"Saturated for samples like these: {step}, and {near}."
    return f"Not saturated: {step}, and {near}. More samples would probably raise M."
