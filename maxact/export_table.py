"""A row a site with every single number of it: CSV that a spreadsheet reads and does not obey, and Parquet."""

from __future__ import annotations

import csv
import io
import math

from maxact_kernels.summary import Summary

from .markdown import printable
from .run import Run, place_of, site_kind, site_layer


def comma_separated(run: Run) -> tuple[dict[str, bytes], list[str]]:
    """sites.csv: UTF-8; no cell begins with what a spreadsheet takes for a formula; what has no value is empty."""
    rows = _rows(run)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0] if rows else [])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return {"sites.csv": file.getvalue().encode()}, [
        "A negative number has a space before it, and text that begins with = + - @ an apostrophe."
    ]


def parquet(run: Run) -> tuple[dict[str, bytes], list[str]]:
    """sites.parquet: the same rows with their types; what has no value is null. Needs pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("parquet needs pyarrow: pip install 'maxact[parquet]'") from None
    rows = [{key: None if _is_nan(value) else value for key, value in row.items()} for row in _rows(run)]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return {"sites.parquet": file.getvalue()}, []


def _rows(run: Run) -> list[dict]:
    rows = [_row(run, name, summary) for name, summary in run.sites.items()]
    columns = dict.fromkeys(key for row in rows for key in row)  # states with other options have other numbers
    return [{key: row.get(key) for key in columns} for row in rows]


def _row(run: Run, name: str, summary: Summary) -> dict:
    row = {"site": name, "kind": site_kind(name), "layer": site_layer(name)}
    for key, value in summary.scalars().items():
        if isinstance(value, dict):
            row |= {f"{key}_{part}": number for part, number in value.items()}
        elif key != "first_nonfinite":
            row[key] = value
    token, feature = summary.first_nonfinite or (None, None)
    row |= {"first_nonfinite_token": token, "first_nonfinite_feature": feature}
    if summary.options.counts:
        row["q0.999"] = summary.quantile(0.999)
        for threshold in ("max", "q0.999"):
            error = summary.quantization_error("int8", threshold)
            row |= {f"int8_{threshold}_sqnr_db": error.sqnr_db, f"int8_{threshold}_zeroed": error.zeroed}
        row["absmax_by_rms"] = summary.absmax / summary.rms if summary.absmax else math.nan
    place = place_of(name, summary, 0)._asdict() if summary.n_elements else {}
    row |= {key: place.get(key) for key in ("sample", "position", "expert", "feature", "value")}
    row["text"] = run.token_text(place["sample"], place["position"]) if place else None
    return row


def _cell(value) -> str:
    if value is None or _is_nan(value):
        return ""
    if isinstance(value, (int, float)):
        return f" {value!r}" if value < 0 else repr(value)
    text = printable(value)
    return f"'{text}" if text[:1] in tuple("=+-@'") else text


def _is_nan(value) -> bool:
    return isinstance(value, float) and math.isnan(value)
