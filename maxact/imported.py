"""Sites of a run that others measured, from the files of arXiv 2605.15572: what these hold, and nothing made up.

A float that they do not hold is nan, a count is None, and a table is a ValueError that says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import numpy as np

from maxact_kernels.summary import Summary, TopK

from .max_act_llm import QUANTILES, RANKED, text_of
from .run import Sites, site_kind

# Their quantiles are interpolated in a histogram of log10 |x|, 512 bins from -8 to 8.
_BIN = 10 ** (16 / 512) - 1

_FLOATS = {
    "max": "max",
    "min": "min",
    "mean": "mean",
    "std": "std",
    "abs_mean": "abs_mean",
    "rms": "rms",
    "peak_median": "sun_peak_token_median",
    "peak_ratio": "sun_peak_token_ratio",
    "ratio_max": "sun_max_ratio",
    "ratio_max_absmax": "sun_max_ratio_abs",
    "ratio_max_median": "sun_max_ratio_median",
    "ratio_mean": "sun_mean_ratio",
    "ratio_std": "sun_std_ratio",
}
_COUNTS = {"n_elements": "count", "n_tokens": "sun_n_tokens", "n_massive_tokens": "sun_n_pass"}
_NOT_FINITE = ("n_nan", "n_inf", "n_nonfinite_tokens")
_UNKNOWN = ("first_nonfinite", "n_absmax", "n_massive_elements", "n_zero_median", "ratio_max_token")


class ImportedOptions(NamedTuple):
    """What is known of how a site was measured, under the names of `maxact_kernels.fields.Options`."""

    d: int | None
    topk: int
    t_abs: float | None
    t_ratio: float | None
    dtype: None = None
    n_samples: int = 0
    counts: bool = False
    medians: bool = False
    int8_per_token: bool = False

    def to_json(self) -> dict:
        return self._asdict()


class Imported(Summary):
    """A site of published results: `numbers` from one file, the signed values of `top` from the other, if it is there."""

    def __init__(self, numbers: dict[str, float], top: list[float], n_run_tokens: int | None):
        self._numbers, self._top = numbers, top
        width, rest = divmod(self.n_elements, n_run_tokens) if n_run_tokens else (None, 0)
        self.options = ImportedOptions(
            width if not rest else None, len(self.topk.values), numbers.get("sun_t_val"), numbers.get("sun_t_ratio")
        )

    @property
    def absmax(self) -> float:
        return max(abs(self.max), abs(self.min), key=lambda v: math.inf if math.isnan(v) else v)

    @property
    def n_zero(self) -> int | None:
        share = self._numbers.get("abs_hist_zero_frac")
        return None if share is None else round(share * self.n_elements)

    @property
    def topk(self) -> TopK:
        """The largest values without their places; of a site that is in one file only, the largest alone."""
        values = self._top or [self.max if abs(self.max) >= abs(self.min) else self.min]
        nowhere = np.zeros(0, np.int64)
        return TopK(np.array(values), nowhere, nowhere)

    exact, bound = property(lambda self: False), property(lambda self: _BIN)
    channel_absmax = property(lambda self: np.zeros(0, np.float32))
    int8_per_token = property(lambda self: self._table("int8_per_token"))

    def quantile(self, q: float) -> float:
        """One of the six that are published; ValueError for any other."""
        held = {q: f"abs_{key}" for key, q in QUANTILES.items() if f"abs_{key}" in self._numbers}
        if q not in held:
            known = ", ".join(map(str, sorted(held))) or "none"
            raise ValueError(f"q: {q}, expected one of those that the published files hold of this site ({known})")
        return self._numbers[held[q]]

    def same_bits(self, other: Summary) -> bool:
        return isinstance(other, Imported) and repr((self._numbers, self._top)) == repr((other._numbers, other._top))

    def _table(self, field: str, *_) -> NoReturn:
        raise ValueError(f"{field}: published files hold no such table; measure the model to have it")


def _float(key: str) -> property:
    return property(lambda self: float(self._numbers.get(key, math.nan)))


def _count(key: str) -> property:
    return property(lambda self: int(self._numbers[key]) if key in self._numbers else None)


for _name, _key in _FLOATS.items():
    setattr(Imported, _name, _float(_key))
for _name, _key in _COUNTS.items():
    setattr(Imported, _name, _count(_key))
for _name in _NOT_FINITE:  # their sums run over all values, so that a finite one has met neither nan nor inf
    setattr(Imported, _name, property(lambda self: 0 if math.isfinite(self.abs_mean) else None))
for _name in _UNKNOWN:
    setattr(Imported, _name, property(lambda self: None))


def _n_tokens(sites: dict[str, dict[str, float]], hidden_size: float) -> int | None:
    """Tokens of a run: said by each site of hidden size, or in older files given by how many elements it has."""
    for name, values in sites.items():
        if site_kind(name) in RANKED:
            n_tokens, rest = divmod(values["count"], hidden_size) if hidden_size else (0, 0)
            n_tokens = values.get("sun_n_tokens", n_tokens if not rest else 0)
            return int(n_tokens) or None
    return None


class ImportedSites(Sites):
    """The sites of checked documents {activation_stats, top5_stats, quant_sanity}, which a run directory keeps as they are."""

    def __init__(self, documents: dict[str, dict]):
        self.documents = documents
        self._numbers = documents["activation_stats"]["per_layer_stats"]
        self._tops = documents.get("top5_stats", {}).get("per_layer_stats", {})
        self.n_tokens = _n_tokens(self._numbers, documents["activation_stats"]["hidden_size"])

    def __getitem__(self, name: str) -> Imported:
        top = self._tops.get(name, {})
        return Imported(self._numbers[name], top.get("topk_signed") or top.get("top5_signed") or [], self.n_tokens)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def held(self) -> NoReturn:
        raise ValueError("the run is imported from published files, which hold no states; only a measured run has them")

    def files(self) -> dict[str, bytes]:
        return {f"{kind}.json": text_of(document).encode() for kind, document in self.documents.items()}
