"""A tokenizer alone, without its model."""

from __future__ import annotations

from .model_checks import check_tokenizer, quiet, reason


def load_tokenizer(name: str):
    """The tokenizer of a directory or a hub id; code that it brings is not run. Raises ValueError of one sentence."""
    import transformers

    try:
        with quiet(bars=False):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            check_tokenizer(name, tokenizer)
    except Exception as error:
        raise ValueError(f"tokenizer: {name!r} cannot be loaded: {reason(error)}") from error
    return tokenizer
