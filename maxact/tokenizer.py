"""A tokenizer alone, without its model."""

from __future__ import annotations

from .gguf_file import SMOLLM2, convert_gguf, find_smollm2
from .model_checks import check_tokenizer, quiet, reason


def load_tokenizer(name: str):
    """The tokenizer of a directory, a hub id, or smollm2-135m; code that it brings is not run. Raises ValueError."""
    import transformers

    try:
        with quiet(bars=False):
            place = convert_gguf(find_smollm2()) if name == SMOLLM2 else name
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            check_tokenizer(name, tokenizer)
    except Exception as error:
        raise ValueError(f"tokenizer: {name!r} cannot be loaded: {reason(error)}") from error
    return tokenizer
