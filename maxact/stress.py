"""Inputs that are known to raise peaks, reported apart from a corpus: `maxact measure --stress`."""

from __future__ import annotations

import random

from .corpus import Corpus, Sample
from .run import Run
from .show import not_finite
from .stability import largest_by_domain
from .words import number, safe

LENGTH = 256  # tokens of a sample
_N_RANDOM = 16
# What sinks form on beside the first token: Sun et al. 2024 (arXiv 2402.17762, section 2.2).
DELIMITERS = ("\n", "\n\n", "\t", " ", "  ", ".", ",", ";", ":", "-", "=", "_", "|", "*", "#", "/", "\\", "<", "{", "(", '"', "\r\n")  # fmt: skip
# First and last letter of a stretch of letters in scripts that tokenizers cut into bytes.
SCRIPTS = {
    "Armenian": (0x0561, 0x0586), "N'Ko": (0x07CA, 0x07EA), "Sinhala": (0x0D9A, 0x0DB1), "Tibetan": (0x0F40, 0x0F47),
    "Myanmar": (0x1000, 0x1021), "Georgian": (0x10D0, 0x10F0), "Ethiopic": (0x1200, 0x1246), "Cherokee": (0x13A0, 0x13F4),
    "Canadian syllabics": (0x1401, 0x166C), "Ogham": (0x1681, 0x169A), "Runic": (0x16A0, 0x16EA), "Khmer": (0x1780, 0x17A2),
    "Mongolian": (0x1820, 0x1842), "Tifinagh": (0x2D30, 0x2D65), "Yi": (0xA000, 0xA48C), "Vai": (0xA500, 0xA60B),
    "Gothic": (0x10330, 0x10340), "Cuneiform": (0x12000, 0x12399), "Egyptian hieroglyphs": (0x13000, 0x1342E),
}  # fmt: skip


def stress_corpus(tokenizer, length: int = LENGTH, seed: int = 0) -> Corpus:
    """Samples of token ids whose domain says what they are; the same for the same tokenizer, length and seed.

    - random tokens: uniform over the vocabulary, special tokens left out
    - repeated token: one token over and over (Yona et al. 2025, arXiv 2503.08908), chosen at random
    - delimiters: long runs of one delimiter
    - rare scripts: random letters of scripts that are mostly bytes to a tokenizer
    - special tokens: each special token, first in a sample and again after some random tokens
    """
    chance = random.Random(seed)
    special = special_ids(tokenizer)
    ordinary = sorted(set(range(len(tokenizer))) - set(special))

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    samples = [("random tokens", chance.choices(ordinary, k=length)) for _ in range(_N_RANDOM)]
    samples += [("repeated token", [chance.choice(ordinary)] * length) for _ in range(_N_RANDOM)]
    for delimiter in DELIMITERS:
        if ids := ids_of(delimiter):
            samples.append(("delimiters", (ids * length)[:length]))
    for first, last in SCRIPTS.values():
        letters = "".join(chr(chance.randint(first, last)) + " " * (i % 8 == 7) for i in range(length))
        samples.append(("rare scripts", ids_of(letters)[:length]))
    for id in special:
        samples.append(("special tokens", [id, *chance.choices(ordinary, k=7), id][:length]))
    return Corpus("stress", [Sample(None, ids, domain) for domain, ids in samples if ids])


def special_ids(tokenizer) -> list[int]:
    """The ids of every token that the tokenizer calls special, ascending."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return sorted({*tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)})


def stress_record(stress: Run) -> dict:
    """M of a stress run, where it stands, and M of each kind of input."""
    return {"M": stress.M, "peaks": [place.to_json() for place in stress.peaks()], "domains": largest_by_domain(stress)}


def print_stress(run: Run, stress: Run, console) -> None:
    """What a stress run adds to the run of the corpus."""
    times = f", {stress.M / run.M:.3g} times that of the corpus" if run.M > 0 else ""
    console.print(f"\nStress, apart from the corpus: M = {number(stress.M)}{times}.")
    for line in not_finite(stress):
        console.print(line)
    kinds = largest_by_domain(stress)
    for kind, largest in sorted(kinds.items(), key=lambda item: -item[1]):
        console.print(f"  {safe(kind)}: {number(largest)}")
    if max(kinds.values()) < stress.M:
        console.print("M is an expert's, whose rows are named by expert, not by sample: no kind of input holds it.")
