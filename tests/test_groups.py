"""Groups of tokens: what stands in a group is measured as if it had stood alone, and is still counted with the rest."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from test_measure import TEXTS, Letters
from tiny_models import N_LAYERS, assert_same_bits, buffers, one_thread, random_ids, tiny  # noqa: F401

from maxact import Run, measure
from maxact.groups import merge_groups, read_groups, rows
from maxact.hooks import attach
from maxact.show import print_run
from maxact_kernels import fused_probe

pytestmark = pytest.mark.usefixtures("one_thread")
HIDDEN = [f"layer_{i}_hidden" for i in range(N_LAYERS)]


def alone(x, members, **options) -> dict:
    s = fused_probe(x[members].contiguous(), **options).summary()
    return {"absmax": s.absmax, "n_tokens": s.n_tokens, "n_massive_tokens": s.n_massive_tokens}


def test_a_group_has_the_numbers_of_its_tokens_alone():
    model, ids = tiny("llama"), random_ids(2, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()
    groups = {"odd": ids % 2 == 1, "none": torch.zeros(2, 6).bool(), "all": torch.ones(2, 6).bool()}
    sun = dict(t_abs=1.0, t_ratio=4.0)
    with torch.no_grad(), attach(model, **sun) as probe:
        probe.batch(groups=groups)
        hidden = model(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    found = probe.groups()
    assert list(found) == ["odd", "none", "all"] and all(list(sites) == HIDDEN for sites in found.values())
    for name, members in groups.items():
        for i in range(N_LAYERS - 1):  # the last of hidden_states stands after the final norm
            assert found[name][f"layer_{i}_hidden"] == alone(hidden[i + 1], members & mask, **sun)
    assert sum(n["n_massive_tokens"] for n in found["odd"].values()) > 0
    assert found["none"]["layer_0_hidden"] == {"absmax": 0.0, "n_tokens": 0, "n_massive_tokens": 0}


def test_groups_change_nothing_of_the_sites():
    model, ids = tiny("llama"), random_ids(2, 6)
    results = []
    for groups in (None, {"odd": ids % 2 == 1}):
        with torch.no_grad(), attach(model, position_0=groups is not None) as probe:
            probe.batch(groups=groups)
            model(ids)
        results.append(buffers(probe))
    assert_same_bits(*results)


def test_position_0_is_the_first_real_token_of_each_sample():
    model, ids = tiny("llama"), random_ids(2, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    first = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    with torch.no_grad(), attach(model, position_0=True) as probe:
        hidden = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert probe.groups()["position_0"]["layer_0_hidden"] == alone(hidden[1], first)


def test_a_snapshot_brings_groups_back_too():
    model = tiny("llama")
    with torch.no_grad(), attach(model, position_0=True) as probe:
        model(random_ids(2, 3))
        before, groups = probe.snapshot(), probe.groups()
        model(random_ids(4, 3, seed=1))
        assert probe.groups() != groups
        probe.restore(before)
    assert probe.groups() == groups


@pytest.mark.parametrize(
    ("error", "groups", "sentence"),
    [
        (ValueError, {"position_0": torch.ones(1, 3).bool()}, "groups: 'position_0', expected a name of up to 64 char"),
        (ValueError, {"\x1b": torch.ones(1, 3).bool()}, r"groups: '\\x1b', expected a name"),
        (TypeError, {"a": torch.ones(1, 3)}, "groups: 'a' is torch.float32, expected a bool tensor"),
        (TypeError, {"a": [True]}, "groups: 'a' is list, expected a bool tensor"),
        (
            ValueError,
            {"a": torch.ones(1, 2).bool()},
            r"groups: 'a' of shape \[1, 2\], expected \[1, 3\] like input_ids",
        ),
    ],
)
def test_what_is_not_a_group_is_an_error(error, groups, sentence):
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        with pytest.raises(error, match=f"^{sentence}"):
            probe.batch(groups=groups)
            model(random_ids(1, 3))
        assert probe.states == {}


def test_groups_of_parts_add_up_to_those_of_the_whole():
    model, ids = tiny("llama"), random_ids(4, 6)
    parts = []
    for part in (ids, ids[:2], ids[2:]):
        with torch.no_grad(), attach(model, position_0=True, t_abs=1.0, t_ratio=4.0) as probe:
            model(part)
        parts.append(probe.groups())
    assert merge_groups(parts[1:]) == parts[0]


def printed(run) -> str:
    console = Console(width=120, record=True, markup=False)
    print_run(run, console)
    return console.export_text()


def test_a_run_keeps_position_0_and_shows_it(tmp_path):
    run = measure(tiny("llama"), Letters(), TEXTS, t_abs=0.5, t_ratio=2.0)
    run.save(tmp_path / "run")
    run = Run.load(tmp_path / "run")
    sites = run.groups()["position_0"]
    assert list(sites) == HIDDEN and all(numbers["n_tokens"] == len(TEXTS) for numbers in sites.values())
    first, rest = rows(run)
    assert (first.group, rest.group) == ("position_0", "rest")
    skipped = measure(tiny("llama"), Letters(), TEXTS, t_abs=0.5, t_ratio=2.0, skip_first=1)
    hidden = [skipped.sites[name] for name in HIDDEN]
    assert rest == (
        "rest",
        hidden[0].n_tokens,
        max(s.absmax for s in hidden),
        rest.site,
        sum(s.n_massive_tokens for s in hidden),
    )
    share = 100 * first.n_massive_tokens / (first.n_massive_tokens + rest.n_massive_tokens)
    assert 0 < share < 100
    text = printed(run)
    assert f"{share:.3g} % of them at position 0" in text and "Residual stream by token group" in text


def test_where_the_largest_elements_all_stand_at_position_0_the_rest_is_bounded():
    model = tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[Letters.bos_token_id] *= 1000
    run = measure(model, Letters(), TEXTS, topk=1, bos=True)
    first, rest, content, special = rows(run)
    assert (content.group, special.group) == ("content", "special") and special[1:] == first[1:]
    skipped = measure(model, Letters(), TEXTS, topk=1, bos=True, skip_first=1)
    largest = max(skipped.sites[name].absmax for name in HIDDEN)
    assert rest.site is None and rest.absmax >= largest
    assert "≤" in printed(run)


@pytest.mark.parametrize("value", [None, [], {"a": 3}, {"a": {"b": {"absmax": "x", "n_tokens": 1, "n_massive_tokens": 0}}},
                                   {"a": {"b": {"absmax": 1.0, "n_tokens": -1, "n_massive_tokens": 0}}}])  # fmt: skip
def test_what_a_file_says_of_groups_is_believed_only_if_it_is_numbers(value):
    assert read_groups(value) == {}
