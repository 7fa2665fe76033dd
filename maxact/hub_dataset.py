"""Rows of a dataset from the hub, streamed. Whatever goes wrong on the way is a ValueError of one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def dataset_rows(
    source: str, *names: str, split: str = "train", shuffle_seed: int | None = None, **options: Any
) -> Iterator[dict]:
    """The rows of `datasets.load_dataset(*names, split=split, **options)`; source: what the user called it.

    shuffle_seed: files, and rows within a buffer, in an order that this decides. Raises ValueError.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"corpus: {source!r} needs the package datasets: pip install maxact[datasets]") from error
    try:
        stream = datasets.load_dataset(*names, split=split, streaming=True, **options)
        if shuffle_seed is not None:
            stream = stream.shuffle(seed=shuffle_seed, buffer_size=10_000)
        yield from stream
    except Exception as error:  # from the network, the hub, or any of the file formats
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"corpus: {source!r} (split {split!r}) cannot be read: {reason}") from error
