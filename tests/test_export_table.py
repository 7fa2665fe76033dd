"""CSV and Parquet hold a row a site with the summary's own numbers; a spreadsheet obeys no cell of the CSV."""

import csv
import io
import math

import pytest
import torch
from small_runs import HOSTILE, noise, run_of, with_peak

from maxact.export_table import comma_separated, parquet


@pytest.fixture
def run():
    x = with_peak(-900.0)
    x[0, 1, 3] = math.nan
    tensors = {"embedding_output": x, "layer_1_mlp_act": with_peak(60.0), "layer_2_hidden": noise(n_positions=0)}
    return run_of(tensors, token_text={"1:2": {"id": 1, "text": "=cmd|' /C calc'!A0\n" + HOSTILE}})


def read_csv(run) -> list[dict]:
    return list(csv.DictReader(io.StringIO(comma_separated(run)[0]["sites.csv"].decode(), newline="")))


def test_csv_has_every_scalar_of_every_site_to_the_last_digit(run):
    rows = read_csv(run)
    assert [row["site"] for row in rows] == list(run.sites)
    for row in rows:
        summary = run.sites[row["site"]]
        for name, value in summary.scalars().items():
            if isinstance(value, bool):
                assert row[name] == str(value)
            elif isinstance(value, (int, float)):
                assert float(row[name] or "nan") == value or math.isnan(value) and row[name] == "", name
    act = run.sites["layer_1_mlp_act"]
    assert float(rows[1]["int8_per_token_sqnr_db"]) == act.int8_per_token.sqnr_db
    assert float(rows[1]["int8_max_zeroed"]) == act.quantization_error("int8").zeroed
    assert float(rows[1]["absmax_by_rms"]) == 60 / act.rms
    assert (rows[1]["kind"], rows[1]["layer"], rows[0]["layer"]) == ("mlp_act", "1", "")
    assert [rows[0][key] for key in ("sample", "position", "feature", "value")] == ["1", "2", "5", " -900.0"]
    assert rows[0]["first_nonfinite_feature"] == "3" and rows[2]["value"] == ""


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "a,b", 'a"b', "a\nb", "", "=" * 200]
)
def test_no_cell_begins_with_what_a_spreadsheet_takes_for_a_formula(text, run):
    run.provenance["token_text"]["1:2"]["text"] = text
    data = comma_separated(run)[0]["sites.csv"].decode()
    cells = [cell for row in csv.reader(io.StringIO(data, newline="")) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert len(data.splitlines()) == 4 and all(cell.isprintable() for cell in cells)
    if text.isprintable() and len(text) <= 80:
        assert read_csv(run)[0]["text"] == "'" * (text[:1] in tuple("=+-@'")) + text


def test_states_with_other_options_stand_in_one_table():
    a, b = run_of({"layer_0_hidden": noise()}), run_of({"layer_0_mlp_act": noise()}, dict(counts=False, medians=False))
    a.sites._held.update(b.sites._held)
    rows = read_csv(a)
    assert rows[0]["rms"] and not rows[1]["rms"] and rows[1]["absmax"] == rows[0]["absmax"]


def test_parquet_has_the_same_rows_with_types(run):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(io.BytesIO(parquet(run)[0]["sites.parquet"]))
    types = {name: str(table.schema.field(name).type) for name in ("site", "layer", "n_elements", "absmax", "exact")}
    assert types == {"site": "string", "layer": "int64", "n_elements": "int64", "absmax": "double", "exact": "bool"}
    rows = table.to_pylist()
    assert [row["absmax"] for row in rows] == [900.0, 60.0, 0.0]
    assert rows[0]["value"] == -900.0 and rows[2]["mean"] is None
    assert rows[0]["text"] == run.token_text(1, 2)  # as it is: no program takes a string of Parquet for a formula


def test_without_pyarrow_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"^parquet needs pyarrow: pip install 'maxact\[parquet\]'$"):
        parquet(run)


def test_a_run_of_float32_is_written_too():
    assert float(read_csv(run_of({"x": torch.ones(1, 1, 4)}))[0]["bound"]) == 2.0**-7
