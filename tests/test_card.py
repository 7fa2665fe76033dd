"""The card's section: written in place with every other byte as it was; hostile text in it is shown and obeyed nowhere."""

import re
import shlex
from copy import deepcopy
from xml.etree import ElementTree

import pytest
import torch
import yaml
from commands import maxact
from huggingface_hub import ModelCard
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from small_runs import HOSTILE, noise, run_of, with_peak

from maxact.card import PICTURE, command, section
from maxact.card_file import metadata, with_metadata, with_section, write_card
from maxact.card_picture import picture
from maxact.markdown import text

KNOWN = dict(
    model={"model_id": "Qwen3-8B", "model_type": "qwen3", "dtype": "bfloat16", "attn": "sdpa", "config_digest": "ab" * 32},
    corpus={"name": "builtin", "digest": "cd" * 32, "bos": True, "max_length": 256},
    site_set="gemm",
    n_samples=3,
    n_tokens=12,
    tokens_per_batch=8192,
    token_text={"1:2": {"id": 9, "text": "of"}},
)  # fmt: skip


@pytest.fixture
def run():
    tensors = {"embedding_output": noise(), "layer_0_hidden": with_peak(900.0), "layer_0_mlp_act": with_peak(60.0)}
    return run_of(tensors | {"layer_1_hidden": with_peak(-900.0)}, **deepcopy(KNOWN))


def render(markdown: str) -> str:
    """GitHub's dialect as far as structure goes: tables, HTML allowed through, links made of addresses."""
    return MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(markdown)


def test_it_says_m_its_place_headroom_and_the_verdict(run):
    card = section(run)
    assert "**M = 900** is the largest" in card and "900 in `layer_0_hidden` (and in 1 more site," in card
    assert "channel 5, the token “of” at position 2 of sample 1" in card
    assert "| Largest fp16 (65,504) | 72.8x below |" in card
    assert "| Largest FP8 E4M3, unscaled (448) | 2.01x over |" in card
    assert [run.sites[f"layer_{i}_hidden"].n_massive_tokens for i in (0, 1)] == [1, 1]
    assert "| Massive activations of Sun et al. (2024) | 2 tokens, summed over 2 of 2 layers (\\|x\\| > 100 and" in card
    assert "| none in 1 layer (" in section(run_of({"layer_0_hidden": noise()}))


def test_published_figures_are_an_order_and_no_more(run):
    card = section(run)
    assert (
        "27 checkpoints have an M of 122 to 696,320, 25 of them a larger one than this (arXiv 2605.15572; other" in card
    )
    assert "for Qwen3-8B itself M = 17,664" in card and "Qwen3-32B 35,328" in card


def test_beside_each_sqnr_stand_the_one_per_token_the_zeroed_share_and_m_by_rms(run):
    row = next(line for line in section(run).splitlines() if line.startswith("| layer_0_mlp_act |"))
    s = run.sites["layer_0_mlp_act"]
    errors = [s.quantization_error("int8", threshold) for threshold in ("max", "q0.999", "mse")]
    figures = [f"{e.sqnr_db:.1f}" for e in errors] + [f"{s.int8_per_token.sqnr_db:.1f}", f"{100 * errors[0].zeroed:.1f} %"]
    assert row == "| layer_0_mlp_act | " + " | ".join([*figures, f"{60 / s.rms:.4g}"]) + " |"
    assert "nothing is known of quantization" in section(run_of({"layer_0_hidden": noise()}, dict(counts=False)))


def test_of_each_kind_the_site_with_the_least_sqnr_is_shown():
    run = run_of(
        {"layer_0_hidden": noise(), "layer_1_hidden": with_peak(500.0), "layer_2_hidden": torch.zeros(1, 2, 8)}
    )
    assert [line.split()[1] for line in section(run).splitlines() if line.startswith("| layer")] == ["layer_1_hidden"]


def test_the_command_is_one_that_measures_the_same(run):
    assert command(run) == (
        "maxact measure Qwen3-8B --limit 3 --sites gemm --dtype bfloat16 --attn sdpa --max-length 256 "
        "--tokens-per-batch 8192 --bos"
    )
    run.provenance["site_set"] = ["layer_*_hidden", "final_layernorm"]
    assert shlex.split(command(run))[6] == "layer_*_hidden,final_layernorm"
    run.provenance |= {"skip_first": 4, "shard": [2, 3]}
    assert command(run).endswith(" --skip-first 4 --shard 2/3 --bos")
    assert "without the first 4 tokens of each" in section(run)
    run.provenance["model"]["model_id"] = "$(rm -rf /) `x`"
    run.provenance["corpus"]["name"] = "-o evil"
    assert command(run).startswith("maxact measure MODEL --corpus CORPUS --limit 3")


@pytest.mark.parametrize(
    "hostile",
    [HOSTILE, "<!-- maxact:end -->", "```\n# x", "a|b|c", "[x](javascript:1)", "<img src=x onerror=1>", "&lt;b&gt;",
     "**b** __i__ ~~s~~", "http://x.invalid www.x.invalid a@x.invalid", "\\", "`", "---", "1. x", "\u202e\u2028\x00", "x" * 999],
)  # fmt: skip
def test_hostile_text_is_shown_as_it_is(hostile):
    html = render(f"| a | b |\n|---|---|\n| {text(hostile)} | 2 |\n\nA {text(hostile)} B")
    assert not set(re.findall(r"<(\w+)", html)) - {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert html.count("<td>") == 2 and html.count("<p>") == 1 and "maxact:end" not in text(hostile)
    assert not re.search(r"https?://|www\.|\w@\w", text(hostile))
    tree = ElementTree.fromstring(f"<x>{html}</x>")
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in hostile[:80]) + "…" * (len(hostile) > 80)
    assert tree.find("p").text == f"A {shown} B"


def test_a_hostile_run_makes_no_markup_and_no_second_marker(run):
    run.provenance |= {"token_text": {"1:2": {"id": 1, "text": HOSTILE}}, "maxact": HOSTILE, "site_set": [HOSTILE]}
    run.provenance["model"] |= {"model_id": "<!-- maxact:end -->" + HOSTILE, "dtype": HOSTILE, "revision": HOSTILE}
    run.provenance["corpus"] |= {"name": HOSTILE, "max_length": HOSTILE}
    run.provenance["environment"] = {"device": HOSTILE, "torch": [HOSTILE]}
    written = with_section(b"", section(run))
    html = render(written.decode())
    tags = {"h2", "h3", "p", "strong", "em", "code", "pre", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert not set(re.findall(r"<(\w+)", html)) - tags
    assert with_section(written, section(run)) == written
    assert yaml.safe_load("\n".join(metadata(run)))["model-index"][0]["name"].startswith("<!-- maxact:end -->[/red]")


@pytest.mark.parametrize(
    "before",
    [b"", b"# Mine", b"# Mine\n", b"# Mine\r\ntext\r\n", b"\xff\xfe not text\n", b"\xef\xbb\xbf# Mine\n", b"a\n\n\n"],
)
def test_a_card_without_a_section_keeps_its_bytes_and_gets_it_at_the_end(run, before):
    written = with_section(before, "## S\n\nfirst")
    assert written.startswith(before)
    assert written.endswith(b"\r\n" if b"\r\n" in before else b"\n")
    assert with_section(written, "## S\n\nfirst") == written


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60), st.text(max_size=40), st.text(max_size=40))
def test_whatever_stands_around_the_section_keeps_its_bytes(top, bottom, first, second):
    assume(b"<!-- maxact" not in top + bottom and not top.endswith(b"\r"))  # half a line end
    first, second = text(first), text(second)
    written = with_section(top, first) + bottom
    again = with_section(written, second)
    assert with_section(again, first) == written or b"\r\n" in bottom  # which then is how lines end
    assert again.startswith(top) and again.endswith(bottom)
    assert second.encode() in again


@given(st.text(alphabet=st.characters(), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_shown_as_it_is_and_is_no_markup(value):
    html = render(f"A {text(value)} B\n\n| a |\n|---|\n| {text(value)} |")
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in value)
    tree = ElementTree.fromstring(f"<x>{html}</x>")
    assert tree.find("p").text == f"A {shown} B" and len(tree) == 2
    assert (tree.find("table/tbody/tr/td").text or "") == shown.strip()


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_section_that_is_there_is_replaced_and_nothing_else(newline):
    top, bottom = b"# Mine  " + newline + b"\xff" + newline * 2, newline * 3 + b"tail without an end"
    old = newline.join([b"<!-- maxact:begin -->", b"old", b"", b"<!-- maxact:end -->"])
    written = with_section(top + old + bottom, "new\nlines")
    new = newline.join([b"<!-- maxact:begin -->", b"new", b"lines", b"<!-- maxact:end -->"])
    assert written == top + new + bottom


@pytest.mark.parametrize(
    "lines",
    [["<!-- maxact:begin -->"], ["<!-- maxact:end -->"], ["<!-- maxact:end -->", "<!-- maxact:begin -->"],
     ["<!-- maxact:begin -->", "<!-- maxact:end -->"] * 2],
)  # fmt: skip
def test_markers_that_are_no_pair_are_an_error_and_nothing_changes(run, lines, tmp_path, capsys):
    run.save(tmp_path / "r")
    card = tmp_path / "README.md"
    card.write_text("\n".join(["# Mine", *lines, "end"]))
    before = card.read_bytes()
    _, err = maxact("card", tmp_path / "r", card, code=2, capsys=capsys)
    assert f"{card}: expected one line <!-- maxact:begin --> and after it one <!-- maxact:end -->, found" in err
    assert card.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"r", "README.md"}


@pytest.mark.parametrize(
    "before",
    [
        b"---\nlicense: mit\ntags: [a]\n---\n# Mine\n",
        b"# Mine\n",
        b"\xef\xbb\xbf# Mine",
        b"---\r\nlicense: mit\r\n---\r\nx",
    ],
)
def test_metadata_goes_into_the_front_matter_and_is_replaced_there(run, before):
    run.provenance["model"]["model_id"] = 'a": {b} # c \\ \u2028'
    once = with_metadata(before, ["model-index:", "- {}"])
    twice = with_metadata(once, metadata(run))
    assert with_metadata(twice, metadata(run)) == twice
    body = re.split(rb"---\r?\n", before)[-1].removeprefix(b"\xef\xbb\xbf")
    assert twice.endswith(b"\n" + body)
    front = yaml.safe_load(re.split(r"---\r?\n", twice.decode("utf-8-sig"))[1])
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 900.0
    assert front.get("license") == ("mit" if b"license" in before else None)


def test_the_hub_reads_the_metadata(run):
    card = ModelCard(with_metadata(b"# Mine\n", metadata(run)).decode())
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, card.data.model_name) == ("max_activation", 900.0, "Qwen3-8B")


@pytest.mark.parametrize("before", [b"---\nmodel-index:\n- name: x\n---\n", b"---\nlicense: mit\n"])
def test_metadata_of_others_is_not_touched(before):
    with pytest.raises(ValueError, match="model-index of its own|has no second ---"):
        with_metadata(before, ["model-index:"])


def test_the_picture_is_small_and_does_nothing(run):
    svg = ElementTree.fromstring(picture(run))
    tags = {element.tag.rpartition("}")[2] for element in svg.iter()}
    assert tags == {"svg", "title", "style", "path", "text", "polyline"} and len(picture(run)) < 8000
    assert not [name for element in svg.iter() for name in element.attrib if name.startswith("on") or "href" in name]


def test_the_curve_that_holds_m_is_in_the_picture():
    peak, rest = with_peak(5000.0), noise()
    run = run_of({f"layer_{i}_{kind}": rest for i in (0, 1) for kind in ("hidden", "mlp_act")} | {"layer_2_experts_act": peak})
    assert ">experts_act</text>" in picture(run) and ">10,000</text>" in picture(run) and ">layer</text>" in picture(run)


def test_a_run_without_a_curve_has_a_card_without_a_picture(tmp_path):
    run = run_of({"final_layernorm": noise(), "layer_0_hidden": torch.zeros(1, 2, 8)})
    assert picture(run) is None
    assert write_card(run, tmp_path / "README.md", False) == [tmp_path / "README.md"]
    assert PICTURE not in (tmp_path / "README.md").read_text() and not (tmp_path / PICTURE).exists()


def test_a_run_that_no_command_made_names_none():
    attached = section(run_of({"layer_0_hidden": noise()}, model={"model_id": "maker/m"}))
    assert "maxact measure" not in attached and "`maxact.attach`" in attached
    nameless = section(run_of({"layer_0_hidden": noise()}, corpus={"name": "builtin"}, skip_first="many"))
    assert "maxact measure MODEL --limit 3" in nameless and "None" not in nameless


def test_the_command_writes_card_and_picture_and_the_same_again(run, tmp_path, capsys):
    run.save(tmp_path / "r")
    (tmp_path / "real").mkdir()
    real, card = tmp_path / "real" / "README.md", tmp_path / "README.md"
    real.write_bytes(b"# Mine\n")
    real.chmod(0o640)
    card.symlink_to(real)
    maxact("card", tmp_path / "r", card, capsys=capsys)
    once = real.read_bytes()
    assert once.startswith(b"# Mine\n\n<!-- maxact:begin -->\n") and b"](maxact-absmax.svg)" in once
    assert card.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "maxact-absmax.svg").read_text() == picture(run)
    maxact("card", tmp_path / "r", card, capsys=capsys)
    assert real.read_bytes() == once
    (tmp_path / "maxact-absmax.svg").write_text("<svg>mine</svg>")
    _, err = maxact("card", tmp_path / "r", card, code=2, capsys=capsys)
    assert "exists and is not a picture that maxact card made" in err and real.read_bytes() == once


def test_a_card_that_is_not_there_is_made_and_none_is_printed(run, tmp_path, capsysbinary):
    run.save(tmp_path / "r")
    printed, _ = maxact("card", tmp_path / "r", "--model-index", capsys=capsysbinary)
    assert printed == with_metadata(with_section(b"", section(run)), metadata(run))
    maxact("card", tmp_path / "r", tmp_path / "NEW.md", capsys=capsysbinary)
    assert (tmp_path / "NEW.md").read_bytes() == with_section(b"", section(run, "maxact-absmax.svg"))


def test_a_run_that_cannot_be_repeated_or_has_no_finite_value_has_no_card(run):
    run.provenance["imported"] = {}
    with pytest.raises(ValueError, match="was imported, and a card says how to measure it again"):
        section(run)
    with pytest.raises(ValueError, match="holds no finite value"):
        section(run_of({"layer_0_hidden": noise(n_positions=0)}))
