"""What a state knows, as plain Python numbers and NumPy arrays. Needs no PyTorch."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np

from . import quantization
from .fields import EXPONENT_MIN, INT8_SUMS, Options


class TopK(NamedTuple):
    """The largest |x|, by (|x| descending, token id ascending, feature ascending)."""

    values: np.ndarray  # float32, signed
    token_ids: np.ndarray  # int64
    features: np.ndarray  # int64


class Int8PerToken(NamedTuple):
    """Error of INT-8 with one dynamic scale m_t / 127 per token, over the tokens that are finite throughout."""

    sqnr_db: float
    rel_rmse: float
    rel_mae: float


class Summary:
    """The statistics of one stream. Counts are ints, magnitudes floats; nan stands for what has no value.

    Asking for what the options left out is a ValueError that names the option.
    """

    def __init__(self, options: Options, arrays: dict[str, np.ndarray]):
        self.options, self._arrays = options, arrays
        if outside := int(arrays["n_outside_samples"]):
            raise ValueError(
                f"token_ids: {outside} tokens name a sample outside 0 .. {options.n_samples - 1}; "
                "the upper half of a token id is its sample, and n_samples must count them all"
            )

    def _scalar(name: str, doc: str):  # noqa: N805
        def get(self) -> int | float:
            return self._arrays[name].reshape(()).item()

        return property(get, doc=doc)

    n_elements = _scalar("n_elements", "Finite elements.")
    n_tokens = _scalar("n_tokens", "Tokens that no mask hid.")
    n_zero = _scalar("n_zero", "Elements that are 0 or -0.")
    n_nan = _scalar("n_nan", "Elements that are nan; in no other statistic.")
    n_inf = _scalar("n_inf", "Elements that are inf or -inf; in no other statistic.")
    n_nonfinite_tokens = _scalar("n_nonfinite_tokens", "Tokens that hold nan or inf; in no per-token statistic.")
    absmax = _scalar("absmax", "Largest |x|; 0 for an empty stream.")
    n_absmax = _scalar("n_absmax", "How many elements equal absmax.")
    n_massive_tokens = _scalar("n_massive_tokens", "Tokens with m_t > t_abs and r_t > t_ratio (Sun et al. 2024).")
    n_massive_elements = _scalar("n_massive_elements", "Elements with |x| > t_abs and |x| > t_ratio * med_t.")
    n_zero_median = _scalar("n_zero_median", "Tokens with med_t = 0 < m_t; their ratio is inf.")
    ratio_max = _scalar("ratio_max", "Largest r_t = m_t / med_t, float32.")
    ratio_max_absmax = _scalar("ratio_max_absmax", "m_t of the token of ratio_max.")
    ratio_max_median = _scalar("ratio_max_median", "med_t of the token of ratio_max.")
    peak_median = _scalar("peak_median", "med_t of the token with the largest m_t.")

    @property
    def max(self) -> float:
        """Largest x."""
        return self._arrays["max"].item() if self.n_elements else math.nan

    @property
    def min(self) -> float:
        """Smallest x."""
        return 0.0 - self._arrays["neg_min"].item() if self.n_elements else math.nan

    @property
    def first_nonfinite(self) -> tuple[int, int] | None:
        """(token id, feature) of the non-finite element with the smallest of these, or None."""
        if not self.n_nonfinite_tokens:
            return None
        return self._arrays["first_nonfinite_token"].item(), self._arrays["first_nonfinite_feature"].item()

    @property
    def ratio_max_token(self) -> int | None:
        """Token id of ratio_max; the smallest, if several have it."""
        token = self._arrays["ratio_max_token"].item()
        return token if not math.isnan(self.ratio_max) else None

    @property
    def peak_ratio(self) -> float:
        """r_t of the token with the largest m_t, float32; nan if that is a token of zeros."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return (self._arrays["peak_absmax"] / self._arrays["peak_median"]).item()

    @property
    def topk(self) -> TopK:
        """The min(topk, n_elements) largest elements."""
        k = min(self.options.topk, self.n_elements)
        return TopK(*(self._arrays[name][:k] for name in ("topk_values", "topk_token_ids", "topk_features")))

    @property
    def channel_absmax(self) -> np.ndarray:
        """Largest |x| of each feature. [d] float32"""
        return self._arrays["channel_absmax"]

    @property
    def sample_absmax(self) -> np.ndarray:
        """Largest |x| of each sample, 0 for one that had no token. [n_samples] float32"""
        return self._table("sample_absmax", "n_samples", "a positive n_samples")

    @property
    def sample_massive(self) -> np.ndarray:
        """How many massive tokens each sample holds; they add up to n_massive_tokens. [n_samples] int64"""
        return self._table("sample_massive", "n_samples", "a positive n_samples")

    @property
    def sample_tokens(self) -> np.ndarray:
        """How many tokens each sample holds; they add up to n_tokens. [n_samples] int64"""
        return self._table("sample_tokens", "n_samples", "a positive n_samples")

    @property
    def counts(self) -> np.ndarray:
        """counts[k]: elements whose magnitude has the bits k; for float32 the upper 16 bits. [32768] int64"""
        return self._table("counts", "counts", "counts=True")

    @property
    def ratio_table(self) -> np.ndarray:
        """Tokens by key of m_t and key of r_t, four keys to the octave from 2^-24 and from 1. [256, 128] int64"""
        return self._table("ratio_table", "medians", "medians=True")

    @property
    def exact(self) -> bool:
        """False for float32: what comes from `counts` is then known to `bound` only."""
        return self.options.dtype != "float32"

    @property
    def bound(self) -> float:
        """Relative width of a bin of `counts`: how far what comes from them may be off. 0 if exact."""
        return 0.0 if self.exact else 2.0**-7

    @cached_property
    def mean(self) -> float:
        """Mean of x, from the tokens' sums; relative error below 1e-6 where it is not cancelled."""
        return exact_value(self._arrays["sum"]) / self.n_elements if self.n_elements else math.nan

    @cached_property
    def ratio_mean(self) -> float:
        """Mean of the finite r_t."""
        n = int(self._table("n_ratios", "medians", "medians=True"))
        return exact_value(self._arrays["ratio_sum"]) / n if n else math.nan

    @cached_property
    def ratio_std(self) -> float:
        """Standard deviation (of the population) of the finite r_t."""
        mean, n = self.ratio_mean, int(self._arrays["n_ratios"])
        return math.sqrt(max(0.0, exact_value(self._arrays["ratio_square_sum"]) / n - mean**2)) if n else math.nan

    @cached_property
    def _bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(smallest magnitude, largest magnitude, elements) of every key that occurs, ascending; float64 and int64."""
        keys = self.counts.nonzero()[0]
        n = self.counts[keys]
        if self.options.dtype == "float16":
            low = keys.astype(np.uint16).view(np.float16).astype(np.float64)
            return low, low, n
        low = (keys.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if self.exact:
            return low, low, n
        high = ((keys.astype(np.uint32) << 16) | 0xFFFF).view(np.float32).astype(np.float64)
        if self.n_zero == self.counts[0]:
            high[keys == 0] = 0.0  # nothing but zeros in the first bin
        return low, np.minimum(high, self.absmax), n

    def _moment(self, power: int) -> float:
        low, high, n = self._bins
        return math.fsum(n * ((low + high) / 2) ** power) / self.n_elements if self.n_elements else math.nan

    @cached_property
    def abs_mean(self) -> float:
        """Mean of |x|, from the counts."""
        return self._moment(1)

    @cached_property
    def rms(self) -> float:
        """Root of the mean of x^2, from the counts."""
        return math.sqrt(self._moment(2))

    @cached_property
    def std(self) -> float:
        """Standard deviation (of the population) of x, from the counts and the mean."""
        return math.sqrt(max(0.0, self._moment(2) - self.mean**2)) if self.n_elements else math.nan

    def quantile(self, q: float) -> float:
        """The smallest magnitude v with count(|x| <= v) >= ceil(q n); for float32 the upper end of its bin.

        Raises ValueError if q is not in 0 .. 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q: {q}, expected 0 to 1")
        _, high, n = self._bins
        if not self.n_elements:
            return math.nan
        rank = max(1, math.ceil(_exact_product(q, self.n_elements)))
        return float(high[np.searchsorted(n.cumsum(), rank)])

    def n_above(self, magnitude: float) -> int:
        """Elements with |x| > magnitude, from the counts; for float32 those of the bins that lie above it as a whole."""
        low, _, n = self._bins
        return int(n[low > magnitude].sum())

    def quantization_error(self, fmt: str, threshold: str | float = "max") -> quantization.QuantizationError:
        """Error of the symmetric per-tensor quantizer `fmt` (int<b>, fp8_e4m3, fp8_e5m2) at a threshold.

        threshold: "max" (absmax), "q0.999" (any quantile), "mse" (the counted magnitude with the smallest squared
        error), or a positive number, for example another summary's. Raises ValueError for anything else.
        """
        quantization.grid(fmt)
        low, high, n = self._bins
        if isinstance(threshold, str):
            threshold = self._threshold(fmt, threshold)
        elif isinstance(threshold, bool) or not 0 < threshold < math.inf:
            raise ValueError(f"threshold: {threshold!r}, expected a positive number")
        return quantization.error_of(fmt, float(threshold), low, high, n)

    def sqnr_db_up_to(self, fmt: str, largest: float, n_without: int) -> tuple[float, float]:
        """SQNR of the elements with |x| <= largest under `fmt` at that threshold, and its least without any n_without.

        Without them there is at least the energy that remains without the largest, and at most the error of all.
        """
        low, high, n = (part[self._bins[0] <= largest] for part in self._bins)
        of_all = quantization.error_of(fmt, largest, low, np.minimum(high, largest), n).sqnr_db_bounds[0]
        left = np.diff(np.minimum(n.cumsum(), n.sum() - n_without), prepend=0)
        signal, signal_left = math.fsum(n * low**2), math.fsum(left * low**2)
        return of_all, of_all + 10 * math.log10(signal_left / signal) if signal_left > 0 else math.nan

    def _threshold(self, fmt: str, name: str) -> float:
        if name == "max":
            return self.absmax
        if name == "mse":
            low, high, n = self._bins
            return quantization.best_threshold(fmt, (low + high) / 2, n)
        try:
            if name[:1] == "q":
                return self.quantile(float(name[1:]))
        except ValueError:
            pass
        raise ValueError(f'threshold: {name!r}, expected "max", "mse", "q0.999" (any quantile) or a positive number')

    @cached_property
    def int8_per_token(self) -> Int8PerToken:
        """Error of per-token dynamic INT-8."""
        self._table(INT8_SUMS[0], "int8_per_token", "int8_per_token=True")
        square, absolute, error_square, error_abs = (exact_value(self._arrays[name]) for name in INT8_SUMS)
        if not square:
            return Int8PerToken(math.nan, math.nan, math.nan)
        sqnr_db = 10 * math.log10(square / error_square) if error_square else math.inf
        return Int8PerToken(sqnr_db, math.sqrt(error_square / square), error_abs / absolute)

    def _table(self, field: str, option: str, wanted: str) -> np.ndarray:
        if field not in self._arrays:
            raise ValueError(f"{option}: left out of this state; make it with {wanted} to read this")
        return self._arrays[field]

    def same_bits(self, other: Summary) -> bool:
        """Whether every field of both has the same bits, nan and order of ties included."""
        return self.options == other.options and all(
            self._arrays[name].tobytes() == other._arrays[name].tobytes() for name in self._arrays
        )

    def scalars(self) -> dict[str, int | float | bool | list | None]:
        """Every single number of this summary under its name; what the options left out is not there."""
        names = [name for name, value in vars(Summary).items() if isinstance(value, (property, cached_property))]
        values = {}
        for name in names:
            if name.startswith("_"):
                continue
            try:
                value = getattr(self, name)
            except ValueError:
                continue
            if not isinstance(value, (np.ndarray, TopK)):
                values[name] = value._asdict() if isinstance(value, Int8PerToken) else value
        return values


def _exact_product(q: float, n: int):
    """q * n without rounding, q taken as the decimal that its shortest text shows (0.999 is 999/1000)."""
    from fractions import Fraction

    return Fraction(repr(float(q))) * n


def exact_value(bins: np.ndarray) -> float:
    """The value of an exact sum (fields.py), correctly rounded to float64."""
    total = sum(int(bins[i]) << int(i) for i in bins.nonzero()[0])
    return total / (1 << (24 - EXPONENT_MIN))
