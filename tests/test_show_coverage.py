"""`maxact show RUN --kind coverage`: every kind of site, how many there are, and why layers have none."""

from io import StringIO

import pytest
import torch
from architectures import tiny
from rich.console import Console
from tiny_models import one_thread  # noqa: F401

from maxact import attach
from maxact.run import Run
from maxact.show import print_run
from maxact.show_coverage import Row, coverage_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with torch.no_grad(), attach(tiny("nemotron_h")) as probe:
        tiny_run = probe.model(torch.arange(5, 12).view(1, 7)) and probe.run()
    directory = tmp_path_factory.mktemp("runs") / "hybrid"
    tiny_run.save(directory)
    return Run.load(directory)


def printed(run: Run, width: int = 120) -> list[str]:
    console = Console(width=width, markup=False, highlight=False, record=True, file=StringIO())
    print_run(run, console, "coverage")
    return console.export_text().splitlines()


def test_layers_without_a_part_are_named_with_the_reason(run):
    # attention of one kind or another, experts, attention, an MLP
    assert coverage_of(run)[1:3] == [
        Row("attn_output", 2, 2, "layers 1, 3: no attention in NemotronHBlock"),
        Row("moe_gate", 1, 1, "layers 0, 2: no MLP in NemotronHBlock; layers 3: no router in NemotronHMLP"),
    ]
    lines = [" ".join(line.split()) for line in printed(run)]
    assert "attn_output 2 2 layers 1, 3: no attention in NemotronHBlock" in lines
    assert "hidden 4 4" in lines


def test_what_a_file_claims_is_shown_and_not_obeyed(run):
    rows = [{"kind": "[bold]x\x1b[2J", "expected": 1, "fired": 1, "note": "\x1b]0;title\x07 [/]"}, {"kind": 3}, "row"]
    text = "\n".join(printed(Run(run.sites, {"coverage": rows})))
    assert "\x1b" not in text and "\x07" not in text
    assert "[bold]x?[2J" in text and "?]0;title? [/]" in text


@pytest.mark.parametrize("coverage", [None, [], "table", [{"kind": "hidden"}]])
def test_a_run_without_coverage_says_so(run, coverage):
    with pytest.raises(ValueError, match="^kind: 'coverage' is not in this run; runs that were imported have none$"):
        printed(Run(run.sites, {"coverage": coverage}))
