"""Every field of a ProbeState, declared once: dtype, shape, empty value and merge rule. Needs no PyTorch.

State, merge, storage and every backend read this table; nothing else knows what a state is made of.
Four rules, each associative and commutative on exact values, so that any split of a stream gives the same bits:

sum   integers add
max   the larger float32 wins
tied  (value, count): the larger value wins with its count, equal values add their counts
best  rows in a total order; the first `len` rows stay
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

N_COUNTS = 32768  # magnitudes of a 16-bit float: its bits without the sign
RATIO_ROWS, RATIO_COLS = 256, 128  # keys of m_t from 2^-24, keys of r_t from 2^0, four to the octave

# An exact sum of floats: each addend, rounded to 24 significant bits, is added as an integer to the bin of its binary
# exponent. Integers commute, so the sum does not depend on order, batch split, thread or GPU count. The range covers
# squares of the smallest float32 and sums of squares of the largest; 2^39 addends fit.
EXPONENT_MIN, N_EXPONENTS = -384, 704

DTYPES = ("bfloat16", "float16", "float32")
NO_TOKEN = 2**63 - 1
FLOAT32_MAX = 2.0**128 - 2.0**104


@dataclass(frozen=True)
class Options:
    """What a state was made for; two states merge only if all of it is equal."""

    d: int
    dtype: str
    topk: int = 100
    t_abs: float = 100.0
    t_ratio: float = 1000.0
    n_samples: int = 0
    counts: bool = True
    medians: bool = True
    int8_per_token: bool = False

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise TypeError(f"dtype: {self.dtype}, expected bfloat16, float16 or float32; cast the tensor first")
        _check_integer("d", self.d, 0, 2**31 - 1)
        _check_integer("topk", self.topk, 1, 1024)
        _check_integer("n_samples", self.n_samples, 0, 2**31 - 1)
        for name in ("t_abs", "t_ratio"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name}: {value!r}, expected a number")
            if not 0 <= value <= FLOAT32_MAX:
                raise ValueError(f"{name}: {value!r}, expected a finite float32 of at least 0")
        for name in ("counts", "medians", "int8_per_token"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: {getattr(self, name)!r}, expected True or False")

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(values: dict) -> Options:
        """The options of a state that was written; ValueError if they are not such options."""
        if not isinstance(values, dict) or set(values) != set(Options.__dataclass_fields__):
            raise ValueError(f"options: expected the keys {', '.join(Options.__dataclass_fields__)}")
        try:
            return Options(**values)
        except TypeError as error:
            raise ValueError(f"options: {error}") from None


def _check_integer(name: str, value, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: {value!r}, expected an integer")
    if not low <= value <= high:
        raise ValueError(f"{name}: {value}, expected {low} to {high}")


class Field(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    rule: str
    empty: float | int = 0


# The columns of each `best` rule; their rows move together.
RANKINGS = {
    "topk": ("topk_values", "topk_token_ids", "topk_features"),
    "first_nonfinite": ("first_nonfinite_token", "first_nonfinite_feature"),
    "ratio_max": ("ratio_max", "ratio_max_token", "ratio_max_absmax", "ratio_max_median"),
    "peak": ("peak_absmax", "peak_token", "peak_median"),
}

# Their orders, the first key first. "largest": by |float32|, nan (an empty slot) last; "least": integers, ascending; "sign":
# the positive before the negative. Each is total: two rows that agree in all keys are the same row. In `topk` the sign
# decides only between elements to which a caller gave the same coordinate.
ORDERS = {
    "topk": (("largest", "topk_values"), ("least", "topk_token_ids"), ("least", "topk_features"), ("sign", "topk_values")),
    "first_nonfinite": (("least", "first_nonfinite_token"), ("least", "first_nonfinite_feature")),
    "ratio_max": (
        ("largest", "ratio_max"),
        ("least", "ratio_max_token"),
        ("largest", "ratio_max_absmax"),
        ("largest", "ratio_max_median"),
    ),
    "peak": (("largest", "peak_absmax"), ("least", "peak_token"), ("largest", "peak_median")),
}


def fields(options: Options) -> list[Field]:
    """The fields of a state with these options, in the order in which they lie in its buffer."""
    i64, f32, nan = "int64", "float32", math.nan
    k, o = options.topk, options
    return [
        Field("n_elements", i64, (), "sum"),  # finite elements
        Field("n_tokens", i64, (), "sum"),  # also the id of the next token, where the caller names none
        Field("n_zero", i64, (), "sum"),
        Field("n_nan", i64, (), "sum"),
        Field("n_inf", i64, (), "sum"),
        Field("n_nonfinite_tokens", i64, (), "sum"),
        Field("n_massive_tokens", i64, (), "sum"),
        Field("n_massive_elements", i64, (), "sum"),
        Field("n_zero_median", i64, (), "sum"),
        Field("n_outside_samples", i64, (), "sum"),  # tokens whose sample index is not in 0 .. n_samples - 1
        *([Field("n_ratios", i64, (), "sum")] if o.medians else []),  # tokens with a finite ratio
        Field("absmax", f32, (), "tied"),
        Field("n_absmax", i64, (), "tied"),
        Field("max", f32, (), "max", -math.inf),
        Field("neg_min", f32, (), "max", -math.inf),
        Field("first_nonfinite_token", i64, (1,), "first_nonfinite", NO_TOKEN),
        Field("first_nonfinite_feature", i64, (1,), "first_nonfinite", NO_TOKEN),
        Field("ratio_max", f32, (1,), "ratio_max", nan),
        Field("ratio_max_token", i64, (1,), "ratio_max", NO_TOKEN),
        Field("ratio_max_absmax", f32, (1,), "ratio_max", nan),
        Field("ratio_max_median", f32, (1,), "ratio_max", nan),
        Field("peak_absmax", f32, (1,), "peak", nan),
        Field("peak_token", i64, (1,), "peak", NO_TOKEN),
        Field("peak_median", f32, (1,), "peak", nan),
        Field("topk_values", f32, (k,), "topk", nan),
        Field("topk_token_ids", i64, (k,), "topk", NO_TOKEN),
        Field("topk_features", i64, (k,), "topk", NO_TOKEN),
        Field("channel_absmax", f32, (o.d,), "max"),
        *(
            [
                # By the upper half of the token id; tokens that the mask hides or whose sample is out of range are in none.
                Field("sample_absmax", f32, (o.n_samples,), "max"),  # over finite elements
                Field("sample_massive", i64, (o.n_samples,), "sum"),  # tokens of n_massive_tokens: finite throughout
                Field("sample_tokens", i64, (o.n_samples,), "sum"),  # tokens of n_tokens, those that hold nan or inf too
            ]
            if o.n_samples
            else []
        ),
        Field("sum", i64, (N_EXPONENTS,), "sum"),  # of x, an exact sum
        *([Field("counts", i64, (N_COUNTS,), "sum")] if o.counts else []),
        *(
            [
                Field("ratio_sum", i64, (N_EXPONENTS,), "sum"),
                Field("ratio_square_sum", i64, (N_EXPONENTS,), "sum"),
                Field("ratio_table", i64, (RATIO_ROWS, RATIO_COLS), "sum"),
            ]
            if o.medians
            else []
        ),
        *([Field(name, i64, (N_EXPONENTS,), "sum") for name in INT8_SUMS] if o.int8_per_token else []),
    ]


# Over tokens whose elements are all finite: of x^2, |x|, err^2 and |err|, each token's sum an addend of an exact sum.
INT8_SUMS = ("int8_square_sum", "int8_abs_sum", "int8_error_square_sum", "int8_error_abs_sum")
