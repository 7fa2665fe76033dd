"""Writes FAMILIES.md, the tested model types and their sites: `python tests/families_page.py > FAMILIES.md`."""

from __future__ import annotations

from architecture_table import ARCHITECTURES, REFUSED
from expected_sites import Architecture

N_LAYERS = 4  # of the tiny models
COLUMNS = {
    "attn in, o in": "qo", "attention": "a", "second": "A", "cross": "c", "MLP in": "i", "gate": "g", "act": "d",
    "router": "r", "shared expert": "S", "MLP": "m", "second MLP": "M",
}  # fmt: skip

TOP = """\
# Model families

Each of these {n_types} model types of transformers, and {n_encoders} encoders of them, is built tiny and random, with
padding, and every tensor that a site sees is compared with one that the test computes or records by itself
(`tests/test_architectures.py`). Written by `python tests/families_page.py`; models with code of their own are found by
the same names (`tests/test_architectures_by_name.py`).

■ in every layer · □ in some layers, the others say in the coverage table why not · blank: the model has none

`hidden` is in every layer: what the next layer reads. `emb` is `embedding_output`, `norm` is `final_layernorm`. "attn in,
o in": `attn_input`, `o_input`. "second": a mixer beside or after the attention (`attn_output_2`). "MLP in", "gate",
"act": `mlp_input`, `mlp_gate`, `mlp_act`. A router's site holds logits. Of shared experts also gate and act are sites.
The last column says whether a layer's input and its sites add up to its output; where they do not, what else goes into
it. Of an encoder-decoder model the decoder is measured; `attach(model.get_encoder())` measures the encoder (`:encoder`).

"""
MIDDLE = """
## Refused

These are an error that says why, at `attach`, in the forward pass, or at its end.

| model type | says |
|---|---|
"""


def page() -> str:
    heads = ["model type", "emb", *COLUMNS, "norm", "adds up"]
    lines = [_row(heads), "|" + "---|" * len(heads)]
    lines += [_row(_cells(name, ARCHITECTURES[name])) for name in sorted(ARCHITECTURES)]
    refused = [_row([name, sentence]) for name, sentence in sorted(REFUSED.items())]
    n_encoders = sum(name.endswith(":encoder") for name in ARCHITECTURES)
    return (
        TOP.format(n_types=len(ARCHITECTURES) - n_encoders, n_encoders=n_encoders)
        + "\n".join(lines)
        + "\n"
        + MIDDLE
        + "\n".join(refused)
        + "\n"
    )


def _cells(name: str, architecture: Architecture) -> list[str]:
    layers = architecture.of_layers(N_LAYERS)
    cells = []
    for letters in COLUMNS.values():
        n_with = sum(set(letters) <= set(layer) for layer in layers)
        cells.append("■" if n_with == len(layers) else "□" if n_with else "")
    ends = ["■" * ("e" in architecture.ends), "■" * ("f" in architecture.ends)]
    return [name, ends[0], *cells, ends[1], architecture.why or "yes"]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
