"""What arXiv 2605.15572 publishes of 27 checkpoints, to set a run beside. The figures are in published.csv."""

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

CITATION = "arXiv 2605.15572; results: github.com/clx1415926/Max_act_llm"


class Published(NamedTuple):
    """One checkpoint. All of them ran on some 17 million tokens of 5,000 samples, in bfloat16, no special tokens added.

    int8: the SQNR in dB of one INT-8 scale at the largest value and at the 0.999 quantile, measured at `int8_site` of 8
    checkpoints. Of the second, four are left out: their threshold is the first of 2,048 bins, not a quantile.
    """

    model: str
    family: str
    model_type: str
    params: str  # as stated by the maker; "" if not
    moe: bool
    n_layers: int
    hidden_size: int
    n_samples: int
    n_tokens: int
    M: float  # signed
    site: str  # the first that has M
    n_tied: int  # sites that have M
    peak_layer: int  # the layer whose output is largest, with the median and ratio of its peak token
    peak_median: float
    peak_ratio: float
    ratio_max: float  # over all layers' outputs
    ratio_max_layer: int
    n_massive_tokens: (
        int  # in the layers' outputs, summed: not 0 where the test of Sun et al. finds massive activations
    )
    int8_site: str
    int8_max_db: float | None
    int8_q999_db: float | None


@cache
def checkpoints() -> tuple[Published, ...]:
    """All of them, by family."""
    with (files("maxact") / "published.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_read(row) for row in csv.DictReader(file))


def checkpoint(model_id: str) -> Published | None:
    """The one of this name, whoever's directory or account it is in; None if the paper has none."""
    name = model_id.rstrip("/").rpartition("/")[2].casefold()
    return next((row for row in checkpoints() if row.model.casefold() == name), None)


def _read(row: dict[str, str]) -> Published:
    return Published(**{name: _VALUES[kind](row[name]) for name, kind in Published.__annotations__.items()})


_VALUES = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: text == "yes",
    float | None: lambda text: float(text) if text else None,
}
