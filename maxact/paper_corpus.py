"""The corpus that the published figures were measured on: `--corpus paper`."""

from __future__ import annotations

import os
import random

from .corpus import Corpus, Item, gather
from .hub_dataset import dataset_rows
from .tokenizer import load_tokenizer

DATASET = "Clxxxx/eval_diverse_dataset"
TOKENIZER = "hf-internal-testing/llama-tokenizer"  # that of LLaMA-2, open to all
_SEED = 0


def load_paper_corpus(limit: int | None = None, dataset: str = DATASET, tokenizer: str = TOKENIZER) -> Corpus:
    """The dataset of arXiv 2605.15572 as texts, which `encode` then tokenizes for whatever model is measured.

    Its rows are `input_ids` of LLaMA-2 and a `category`. They are decoded as its authors do, special tokens spelled
    out, so that every family reads the same text, and the digest is the same for all. Its rows stand category by
    category; here they are shuffled, always the same way, so that a `limit` takes of all.
    dataset, tokenizer: others of the same shape; directories will do. Raises ValueError.
    """
    decoder = load_tokenizer(tokenizer)
    # The repository also holds the ids of other families' tokenizers, without categories: together they cannot be read.
    rows = dataset_rows("paper", dataset, data_files=_file_of(dataset))
    items = [_item(number, row, decoder) for number, row in enumerate(rows, 1)]
    random.Random(_SEED).shuffle(items)
    return gather("paper", items, limit)


def _item(number: int, row: dict, tokenizer) -> Item:
    where, ids = f"row {number}", row.get("input_ids")
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < len(tokenizer) for i in ids):
        return where, None, f"input_ids: expected a list of ids from 0 to {len(tokenizer) - 1}"
    return where, {"text": tokenizer.decode(ids), "domain": row.get("category")}, None


def _file_of(dataset: str) -> str:
    if os.path.isdir(dataset):
        names = sorted(os.listdir(dataset))
    else:
        import huggingface_hub

        try:
            names = huggingface_hub.HfApi().list_repo_files(dataset, repo_type="dataset")
        except Exception as error:  # each version of the hub's client has its own classes for no network
            raise ValueError(
                f"corpus: 'paper' ({dataset}) cannot be reached: {' '.join(str(error).split())[:300]}"
            ) from error
    files = [name for name in names if name.endswith((".jsonl", ".json"))]
    chosen = [name for name in files if "llama" in name.lower()] or files
    if len(chosen) != 1:
        raise ValueError(
            f"corpus: 'paper': expected one file of LLaMA-2 ids in {dataset}, found {', '.join(chosen) or 'none'}"
        )
    return chosen[0]
