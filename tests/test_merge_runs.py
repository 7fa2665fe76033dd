"""Shards measured apart and merged have the bits of one run; what does not belong together is refused, and why is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import EVERYTHING, REFERENCE, assert_identical, ids_for, law, tensors
from test_cli import maxact
from test_measure import Letters
from test_resume import OPTIONS, TEXTS, files
from tiny_models import one_thread, tiny  # noqa: F401

from maxact import measure
from maxact.merging import merge_runs
from maxact.run import Run
from maxact_kernels import ProbeState
from maxact_kernels.merge_arrays import merge_arrays
from maxact_kernels.storage import Arrays, pack, unpack

pytestmark = pytest.mark.usefixtures("one_thread")


@law
@given(st.data())
def test_merging_arrays_is_merging_states(data):
    x = data.draw(tensors())
    ids, cut = data.draw(ids_for(len(x))), data.draw(st.integers(0, len(x)))
    mine, theirs = (
        REFERENCE.probe(p, token_ids=i, **EVERYTHING) for p, i in ((x[:cut], ids[:cut]), (x[cut:], ids[cut:]))
    )
    options = mine.options
    whole = Arrays({name: array.copy() for name, array in mine.host_arrays().items()})
    merge_arrays(whole, unpack(options, pack(options, theirs.host_arrays())), options)
    mine.merge(theirs)
    assert_identical(ProbeState.from_arrays(options, whole), mine)


@pytest.fixture(scope="module")
def model():
    return tiny("llama", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """A folder with the run `whole`, and its thirds 1, 2 and 3."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    measure(model, Letters(), TEXTS, **OPTIONS).save(folder / "whole")
    for k in (1, 2, 3):
        measure(model, Letters(), TEXTS, shard=(k, 3), **OPTIONS).save(folder / str(k))
    return folder


def load(*paths):
    return ((path.name, Run.load(path)) for path in paths)


@pytest.mark.parametrize("order", ["123", "312", "321"])
def test_shards_in_any_order_make_the_run_that_one_measurement_makes(runs, tmp_path, order):
    merge_runs(load(*(runs / k for k in order))).save(tmp_path / "merged")
    assert files(tmp_path / "merged") == files(runs / "whole")


def test_shards_hold_every_sample_once(runs):
    held = [[s["index"] for s in Run.load(runs / k).provenance["samples"]] for k in "123"]
    assert sorted(sum(held, [])) == list(range(len(TEXTS))) and min(map(len, held)) > 1


def test_a_shard_without_a_batch_is_refused(model):
    with pytest.raises(ValueError, match="shard: 3 of 3, expected at most 1, as many as there are batches"):
        measure(model, Letters(), TEXTS[:2], shard=(3, 3), **OPTIONS)
    with pytest.raises(ValueError, match="shard: 0 of 3"):
        measure(model, Letters(), TEXTS, shard=(0, 3), **OPTIONS)


def test_experts_and_groups_are_merged_too(tmp_path):
    model = tiny("mixtral", num_local_experts=4, num_experts_per_tok=2)
    options = OPTIONS | dict(sites="gemm")
    measure(model, Letters(), TEXTS, **options).save(tmp_path / "whole")
    for k in (1, 2):
        measure(model, Letters(), TEXTS, shard=(k, 2), **options).save(tmp_path / str(k))
    merge_runs(load(tmp_path / "1", tmp_path / "2")).save(tmp_path / "merged")
    record = files(tmp_path / "merged")
    assert record == files(tmp_path / "whole") and record[1]["experts"] and record[1]["groups"]


def test_the_command_merges_and_says_what_is_missing(runs, tmp_path, capsys):
    out, _ = maxact("merge", *(runs / k for k in "123"), "-o", tmp_path / "merged", capsys=capsys)
    assert files(tmp_path / "merged") == files(runs / "whole")
    assert out == maxact("show", runs / "whole", capsys=capsys)[0]
    out, err = maxact("merge", runs / "1", runs / "3", "-o", tmp_path / "two", capsys=capsys)
    assert "1 of 3 shards are missing: 2; the run is partial" in err and "PARTIAL" in out
    _, err = maxact("merge", runs / "1", "-o", tmp_path / "two", code=2, capsys=capsys)
    assert "--overwrite" in err
    _, err = maxact("merge", runs / "1", runs / "1", "-o", tmp_path / "new", code=2, capsys=capsys)
    assert "holds, too" in err and not (tmp_path / "new").exists()


def test_merging_needs_no_pytorch(runs, tmp_path):
    code = "import sys; from maxact import cli; sys.argv = ['maxact', *sys.argv[1:]]\n"
    code += "try: cli.main()\nexcept SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "merge", *(runs / k for k in "123"), "-o", tmp_path / "merged"]
    subprocess.run(command, check=True, capture_output=True)
    assert files(tmp_path / "merged") == files(runs / "whole")


def changed(run, folder, change) -> str:
    """Why a shard of which run.json is changed is not merged."""
    shutil.copytree(run, folder / "changed", dirs_exist_ok=True)
    record = json.loads((run / "run.json").read_text())
    change(record)
    (folder / "changed" / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError) as error:
        merge_runs(load(run.parent / "1", folder / "changed"))
    return str(error.value)


def test_a_shard_of_another_measurement_is_refused_by_what_differs(runs, tmp_path, model):
    other = measure(model, Letters(), TEXTS, shard=(2, 3), **OPTIONS | dict(topk=8, tokens_per_batch=21))
    with pytest.raises(
        ValueError, match="other: does not belong to 1: tokens_per_batch is 21, in 1 20; topk is 8, in 1 9"
    ):
        merge_runs([("1", Run.load(runs / "1")), ("other", other)])
    other = measure(tiny("llama", torch.bfloat16, rope_theta=5.0), Letters(), TEXTS[:-1], shard=(2, 3), **OPTIONS)
    with pytest.raises(
        ValueError, match="other: does not belong to 1: config is '.*; corpus is '.*', in 1 '.*; token_ids"
    ):
        merge_runs([("1", Run.load(runs / "1")), ("other", other)])


@pytest.mark.parametrize("coverage", [5, [5], [{"missing": None, "expected": 1}], [{"missing": [], "expected": "a"}]])
def test_a_coverage_that_is_none_is_left_out(runs, tmp_path, coverage):
    first = Run.load(runs / "1")
    first.provenance["coverage"] = coverage
    assert merge_runs([("1", first), *load(runs / "2", runs / "3")]).provenance["coverage"] == []


def test_what_a_shard_does_not_say_or_says_twice_is_refused(runs, tmp_path):
    assert "does not say which part" in changed(runs / "2", tmp_path, lambda r: r.pop("identity"))
    assert "does not say which part" in changed(runs / "2", tmp_path, lambda r: r.update(shard=["a", None]))
    assert "does not say which part" in changed(runs / "2", tmp_path, lambda r: r.update(samples=[1, 2]))
    assert "does not say which part" in changed(runs / "2", tmp_path, lambda r: r.pop("tokens_per_batch"))
    assert "one of 4 shards, 1 is one of 3" in changed(runs / "2", tmp_path, lambda r: r.update(shard=[2, 4]))
    index = Run.load(runs / "1").provenance["samples"][0]["index"]
    overlap = changed(
        runs / "2", tmp_path, lambda r: r["samples"].append({"index": index, "domain": "", "n_tokens": 1})
    )
    assert f"changed: holds sample {index}, which 1 holds, too" in overlap
    with pytest.raises(ValueError, match="no runs were given"):
        merge_runs([])
