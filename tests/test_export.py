"""The export command writes each format's files whole, refuses options that a format has not, and overwrites nothing unasked."""

import json

import pytest
from commands import maxact
from small_runs import noise, run_of, with_peak

from maxact.export import FORMATS, export

FILES = {
    "smoothquant": {"act_scales.safetensors"},
    "input-scales": {"input_scales.safetensors", "input_activations.json"},
    "channel-absmax": {"channel_absmax.safetensors"},
    "csv": {"sites.csv"},
    "parquet": {"sites.parquet"},
    "keep": {"keep.json"},
}
OPTIONS = {"keep": ["--sqnr", "30"], "input-scales": ["--quantize", "int8", "--threshold", "q0.99"]}


@pytest.fixture
def directory(tmp_path):
    tensors = {"layer_0_hidden": noise(), "layer_0_mlp_act": with_peak(90.0)}
    run_of(tensors, modules={"layer_0_mlp_act": {"end": "input", "paths": ["m.0"]}}).save(tmp_path / "r")
    return tmp_path / "r"


@pytest.mark.parametrize("form", FILES)
def test_every_format_writes_its_files_once(form, directory, tmp_path, capsys):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    arguments = ["export", directory, "--format", form, "-o", tmp_path / "out", *OPTIONS.get(form, [])]
    out, _ = maxact(*arguments, capsys=capsys)
    assert (
        {path.name for path in (tmp_path / "out").iterdir()}
        == FILES[form]
        == {line.rpartition("/")[2] for line in out.split()}
    )
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    _, err = maxact(*arguments, code=2, capsys=capsys)
    assert "exists; name another directory with --output or add --overwrite" in err
    record = json.loads(maxact(*arguments, "--overwrite", "--json", capsys=capsys)[0])
    assert len(record["files"]) == len(before) and {p: p.read_bytes() for p in before} == before


def test_the_help_names_every_format(capsys):
    out, _ = maxact("export", "--help", capsys=capsys)
    assert FILES.keys() | {"max-act-llm"} == FORMATS.keys()
    assert all(name in out for name in FORMATS)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--format", "xlsx"], "format: 'xlsx', expected one of max-act-llm, smoothquant, "),
        (["--format", "csv", "--threshold", "max"], "threshold: no option of the format csv, which has none"),
        (["--format", "keep", "--threshold", "max"], "threshold: no option of the format keep, which has sqnr, "),
        (["--format", "input-scales", "--threshold", "most"], "threshold: 'most', expected"),
    ],
)
def test_what_a_format_has_not_is_refused_and_nothing_written(args, sentence, directory, tmp_path, capsys):
    _, err = maxact("export", directory, *args, "-o", tmp_path / "out", code=2, capsys=capsys)
    assert sentence in err and not (tmp_path / "out").exists()


def test_every_format_warns_of_what_its_files_cannot_say(tmp_path):
    tensors = {"layer_0_hidden": with_peak(float("nan")), "layer_0_mlp_act": noise()}
    run = run_of(tensors, partial=True, modules={"layer_0_mlp_act": {"end": "input", "paths": ["m.0"]}})
    for form in set(FORMATS) - {"parquet"}:
        _, notes = export(run, form, tmp_path / form, **({"limit": "fp16"} if form == "keep" else {}))
        assert any(sentence.startswith("The run is partial: ") for sentence in notes), form
        assert any("nan or inf in 1 site, first layer_0_hidden" in sentence for sentence in notes), form
