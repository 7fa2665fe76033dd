"""The data of a report page is what the run holds, in text that a page can hold."""

import base64
import json

import numpy as np
import pytest
import torch
from report_pages import deep_run, jumping_run, state

from maxact.report import page, script_json
from maxact.report_data import MERGED_BITS, N_WHOLE, RATIO_ORIGIN, runs_data, table_text
from maxact.run import Run, Sites


def table(text: str) -> dict[int, int]:
    """The table that a text says, as this file's head of report_data.py describes it."""
    numbers, value, shift = [], 0, 0
    for byte in base64.b64decode(text):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    cells, key, count, numbers = {}, -1, 0, iter(numbers)
    for _ in range(next(numbers)):
        key += next(numbers) + 1
        for _ in range(next(numbers)):
            zigzag = next(numbers)
            count += -(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2
            cells[key] = count
            key += 1
        key -= 1
    assert next(numbers, None) is None
    return cells


@pytest.mark.parametrize("cells", [{}, {0: 1}, {32767: 2**62}, {3: 5, 4: 1, 5: 300, 9: 2**40, 10: 1, 32000: 7}])
def test_a_table_says_its_cells(cells):
    keys = np.array(list(cells), dtype=np.int64)
    assert table(table_text(keys, np.array(list(cells.values()), dtype=np.int64))) == cells


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_count_and_every_ratio_above_the_floor_is_on_the_page(dtype):
    x = torch.randn(200, 33, generator=torch.Generator().manual_seed(1)).mul(40).to(dtype)
    x[::7, 3] *= 500
    run = Run(Sites({"layer_0_hidden": state(x)}), {})
    summary, data = run.sites["layer_0_hidden"], runs_data([("a", run)])
    assert data["merged_bits"] is None
    counts = summary.counts
    assert table(data["runs"][0]["counts"][0][1]) == {int(k): int(counts[k]) for k in counts.nonzero()[0]}
    m, r = RATIO_ORIGIN
    ratios = {
        int(row + m) * 128 + int(column + r): int(summary.ratio_table[row + m, column + r])
        for row, column in zip(*summary.ratio_table[m:, r:].nonzero())
    }
    assert table(data["runs"][0]["columns"]["ratios"][0]) == ratios and ratios


def test_many_sites_are_merged_so_that_the_page_stays_small_and_no_element_is_lost(monkeypatch):
    monkeypatch.setattr("maxact.report_data.TABLE_BYTES", 20_000)
    run = deep_run(12, 0)
    data = runs_data([("deep", run)])
    assert data["merged_bits"] == MERGED_BITS[-1]
    for name, (merged, whole) in zip(run.sites, data["runs"][0]["counts"]):
        merged, whole, counts = table(merged), table(whole), run.sites[name].counts
        edge = min(whole)
        assert (
            whole == {int(k): int(counts[k]) for k in counts.nonzero()[0] if k >= edge}
            and N_WHOLE <= len(whole) < N_WHOLE + 8
        )
        low = counts[:edge]
        assert merged == {int(k): int(low[k << 3 : (k + 1) << 3].sum()) for k in np.unique(low.nonzero()[0] >> 3)}


def test_what_a_run_does_not_hold_is_null_and_not_a_guess():
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    run = Run(Sites({"layer_0_hidden": state(x, counts=False, medians=False)}), {})
    data = runs_data([("a", run)])["runs"][0]
    assert data["counts"] == [None] and data["columns"]["ratios"] == [None] and data["columns"]["q0.999"] == [None]
    assert data["columns"]["absmax"] == [run.sites["layer_0_hidden"].absmax]
    empty = runs_data([("none", Run(Sites({}), {}))])["runs"][0]
    assert empty["columns"] == {} and empty["M"] is None
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize("field, index, value, says", [
    ("counts", 5, -3, "layer_0_hidden: counts holds -3"),
    ("counts", 5, 3, "layer_0_hidden: counts add up to 323, expected 320"),
    ("ratio_table", (0, 0), -1, "layer_0_hidden: ratio_table holds -1"),
])  # fmt: skip
def test_tables_that_contradict_their_run_are_refused(field, index, value, says):
    options, arrays = state(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).bfloat16())
    arrays = type(arrays)(arrays | {field: arrays[field].copy()})
    arrays[field][index] += value
    with pytest.raises(ValueError, match=says):
        page([("a", Run(Sites({"layer_0_hidden": (options, arrays)}), {}))])


def test_json_in_a_page_cannot_end_its_script_element():
    text = script_json({"</script><!--": "\u2028\u2029\ud800&é"})
    assert not set(text) & set("<>&\u2028\u2029\ud800") and "é" in text
    assert json.loads(text) == {"</script><!--": "\u2028\u2029\ud800&é"}


def test_a_page_without_its_data_is_under_150_kilobytes():
    assert len(page([]).encode()) < 150_000


def test_a_page_is_the_same_for_the_same_runs():
    assert page([("a", jumping_run())]) == page([("a", jumping_run())])
