"""The published figures that come with the package are whole, agree among themselves and are found by a model's name."""

import io

import pytest
import torch
from rich.console import Console
from test_max_act_llm import run_of

from maxact.published import checkpoint, checkpoints
from maxact.show import print_run


def test_there_are_27_checkpoints_each_once():
    names = [row.model for row in checkpoints()]
    assert len(names) == len(set(names)) == 27
    assert {row.family for row in checkpoints() if row.model_type.startswith("gemma")} == {"Gemma", "Gemma2", "Gemma3"}


@pytest.mark.parametrize("row", checkpoints(), ids=lambda row: row.model)
def test_the_figures_of_a_checkpoint_agree(row):
    assert 0 <= row.peak_layer < row.n_layers and 0 <= row.ratio_max_layer < row.n_layers
    if row.site == f"layer_{row.peak_layer}_hidden":
        assert abs(row.M) / row.peak_median == pytest.approx(row.peak_ratio, abs=0.006)
    assert row.ratio_max >= row.peak_ratio
    assert row.ratio_max > 1000 or not row.n_massive_tokens
    assert torch.tensor(row.M).bfloat16().item() == row.M
    assert bool(row.int8_site) == (row.int8_max_db is not None) and row.int8_site in ("", row.site)


def test_figures_that_are_no_quantile_are_left_out():
    assert sum(row.int8_max_db is not None for row in checkpoints()) == 8
    assert {row.model for row in checkpoints() if row.int8_q999_db is not None} == {
        "Qwen3.5-0.8B", "Qwen3.5-9B", "Qwen3.5-35B-A3B", "gemma-3-4b-it"
    }  # fmt: skip


def test_a_checkpoint_is_found_by_the_last_part_of_its_id():
    assert checkpoint("Qwen/Qwen3-8B").M == checkpoint("qwen3-8b/").M == 17664.0
    assert checkpoint("Qwen3-8B-Base") is None and checkpoint("") is None


def test_show_sets_a_run_beside_what_is_published_of_its_model():
    run = run_of({"layer_0_hidden": torch.ones(3, 8)}, {"model": {"model_id": "Qwen/Qwen2.5-7B"}})
    console = Console(width=200, record=True, file=io.StringIO())
    print_run(run, console)
    shown = console.export_text()
    assert "Published of Qwen2.5-7B: M = -13,248 at layer_13_hidden and 6 more, massive activations" in shown
    assert "arXiv 2605.15572" in shown
    run = run_of({"layer_0_hidden": torch.ones(3, 8)}, {"model": {"model_id": ["no", "name"]}})
    print_run(run, console)
    assert "Published" not in console.export_text()
