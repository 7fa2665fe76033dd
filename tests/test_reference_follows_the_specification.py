"""The reference, oracle of all other tests, against the definitions of the specification written out token by token."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import REFERENCE, U, ids_for, law, noise, tensors

from maxact_kernels.fields import RATIO_COLS, RATIO_ROWS

F32 = np.float32


def defined(x: torch.Tensor, ids: list[int], topk: int, t_abs: float, t_ratio: float, n_samples: int) -> dict:
    """The statistics by definition: Python over every element and token."""
    rows = x.float().numpy()  # [n, d]
    keys = x.view(torch.int32).numpy() >> 16 if x.dtype == torch.float32 else x.view(torch.int16).numpy()
    s = dict(
        n_nan=0, n_inf=0, n_zero=0, n_massive_tokens=0, n_massive_elements=0, n_zero_median=0, first_nonfinite=None,
        counts=np.zeros(32768, np.int64), ratio_table=np.zeros((RATIO_ROWS, RATIO_COLS), np.int64),
        channel_absmax=np.zeros(x.shape[1], F32), sample_absmax=np.zeros(n_samples, F32),
        sample_massive=np.zeros(n_samples, np.int64), sample_tokens=np.zeros(n_samples, np.int64),
    )  # fmt: skip
    elements, tokens, ratios, bad = [], [], [], []
    for row, row_keys, token in zip(rows, keys, ids, strict=True):
        finite = [j for j in range(len(row)) if math.isfinite(row[j])]
        s["sample_tokens"][token >> 32] += len(row) > 0
        s["n_nan"] += int(np.isnan(row).sum())
        s["n_inf"] += int(np.isinf(row).sum())
        bad += [(token, j) for j in range(len(row)) if j not in finite]
        for j in finite:
            v = abs(row[j])
            elements.append((-v, token, j, bool(np.signbit(row[j])), row[j]))
            s["counts"][int(row_keys[j]) & 0x7FFF] += 1
            s["n_zero"] += int(v == 0)
            s["channel_absmax"][j] = max(s["channel_absmax"][j], v)
            s["sample_absmax"][token >> 32] = max(s["sample_absmax"][token >> 32], v)
        if len(finite) < len(row):
            continue
        magnitudes = sorted(abs(v) for v in row)
        m, median = magnitudes[-1], magnitudes[(len(row) - 1) // 2]
        ratio = F32(m / median) if median > 0 else F32(math.inf) if m > 0 else None
        tokens.append((-m, token, -median, ratio))
        s["n_massive_elements"] += sum(bool(v > F32(t_abs) and v > F32(t_ratio) * median) for v in magnitudes)
        if ratio is None:
            continue
        massive = int(m > F32(t_abs) and ratio > F32(t_ratio))
        s["n_massive_tokens"] += massive
        s["sample_massive"][token >> 32] += massive
        s["n_zero_median"] += int(median == 0)
        ratios.append((-ratio, token, -m, -median))
        row_key = (int(m.view(np.int32)) >> 21) - (103 << 2)
        col_key = (int(ratio.view(np.int32)) >> 21) - (127 << 2)
        s["ratio_table"][min(max(row_key, 0), RATIO_ROWS - 1), min(max(col_key, 0), RATIO_COLS - 1)] += 1
    elements.sort(key=lambda e: e[:4])
    values = [e[-1] for e in elements]
    s["n_elements"], s["n_tokens"], s["n_nonfinite_tokens"] = len(values), len(rows), len(rows) - len(tokens)
    s["absmax"] = max([abs(v) for v in values], default=0.0)
    s["n_absmax"] = sum(bool(abs(v) == s["absmax"]) for v in values)
    s["max"], s["min"] = max(values, default=math.nan), min(values, default=math.nan)
    s["topk"] = [(e[4], e[1], e[2]) for e in elements[:topk]]
    s["first_nonfinite"] = min(bad, default=None)
    first = min(ratios, default=(math.nan, None, math.nan, math.nan))
    s["ratio_max"], s["ratio_max_token"], s["ratio_max_absmax"], s["ratio_max_median"] = (
        -first[0], first[1], -first[2], -first[3]
    )  # fmt: skip
    peak = min(tokens, key=lambda t: t[:3], default=(0, 0, math.nan, None))
    s["peak_median"], s["peak_ratio"] = -peak[2], math.nan if peak[3] is None else peak[3]
    finite_ratios = [-float(r[0]) for r in ratios if math.isfinite(r[0])]
    n = len(finite_ratios)
    s["ratio_mean"] = math.fsum(finite_ratios) / n if n else math.nan
    s["mean"] = math.fsum(float(v) for v in values) / len(values) if values else math.nan
    s["ratio_square_mean"] = math.fsum(r * r for r in finite_ratios) / n if n else math.nan
    return s


@pytest.mark.filterwarnings("ignore:overflow encountered")  # the product of a threshold and a huge median
@law
@given(st.data())
def test_every_statistic_is_its_definition(data):
    x = data.draw(tensors(d=(1, 9)))
    ids = data.draw(ids_for(len(x)))
    topk = data.draw(st.integers(1, 40))
    t_abs, t_ratio = data.draw(st.sampled_from([(100.0, 1000.0), (0.0, 0.0), (0.5, 7.3), (1.0, 1.0)]))
    options = dict(topk=topk, t_abs=t_abs, t_ratio=t_ratio, n_samples=3)
    s = REFERENCE.probe(x, token_ids=ids, **options).summary()
    expected = defined(x, ids.tolist(), **options)
    if not x.numel():
        expected["n_tokens"] = 0

    top = [(float(v), t, f) for v, t, f in expected.pop("topk")]
    assert list(zip(s.topk.values.tolist(), s.topk.token_ids.tolist(), s.topk.features.tolist(), strict=True)) == top
    # Each addend is rounded to 24 bits; in a mean of one sign that is U, in a mean of two signs U of the mean of |x|.
    finite = x[x.isfinite()].double()
    assert abs(s.mean - expected["mean"]) <= 1.001 * U * finite.abs().mean().item() or not len(finite)
    assert s.ratio_mean == pytest.approx(expected["ratio_mean"], rel=1.001 * U, abs=0, nan_ok=True)
    # std^2 + mean^2 is the mean of squares: U from the squares' addends, 2 U from those of the mean; U more at most,
    # where std^2 came out below 0 and was taken as 0.
    square_mean = s.ratio_std**2 + s.ratio_mean**2
    assert square_mean == pytest.approx(expected.pop("ratio_square_mean"), rel=4 * U, abs=0, nan_ok=True)
    for name in ("mean", "ratio_mean"):
        del expected[name]
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(s, name), value, err_msg=name)


def test_the_median_of_an_even_number_is_the_lower_one():
    s = REFERENCE.probe(torch.tensor([[4.0, -1.0, 2.0, 3.0]])).summary()
    assert (s.peak_median, s.peak_ratio, s.ratio_mean) == (2.0, 2.0, 2.0)


def test_working_in_chunks_changes_no_bit(monkeypatch):
    from maxact_kernels import reference

    x = noise(37, 48)
    x[20, 5] = math.nan
    whole = REFERENCE.probe(x, int8_per_token=True)
    monkeypatch.setattr(reference, "_CHUNK_ELEMENTS", 3 * 48)
    chunked = REFERENCE.probe(x, int8_per_token=True)
    assert torch.equal(whole.buffer, chunked.buffer)
