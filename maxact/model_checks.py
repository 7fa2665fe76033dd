"""What is wrong with a model's files, in one sentence each: before they are loaded, and after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_LONGEST_REASON = 300  # characters kept of a message from another library: one sentence, not its list of 200 classes


class Unusable(ValueError):
    """A fault that has its sentence already."""


def check_files(name: str, files: Iterable[str]) -> None:
    files = list(files)
    if any(file.endswith(".safetensors") for file in files):
        return
    pickles = sorted(file for file in files if file.endswith((".bin", ".pt", ".pth")))
    if pickles:
        raise Unusable(
            f"model: {name!r} has its weights only as pickle ({pickles[0]}), which can run code when it is read; "
            "convert them to safetensors first"
        )
    raise Unusable(f"model: {name!r} has no .safetensors file")


def model_class(name: str, config: dict) -> type:
    """The class of transformers that loads a model of this config: with a head for text, else for text and images, else
    for masked text."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    if not isinstance(config, dict) or not isinstance(config.get("model_type", ""), str):
        raise Unusable(f"model: the config.json of {name!r} is not that of a model")
    model_type = config.get("model_type")
    if model_type is None and "auto_map" not in config:
        raise Unusable(f"model: the config.json of {name!r} names no model_type")
    if "auto_map" in config or model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForCausalLM
    if model_type in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return transformers.AutoModelForImageTextToText
    if model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return transformers.AutoModelForMaskedLM
    if model_type in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        raise Unusable(
            f"model: {name!r} is of model_type {model_type!r}, which reads one text and writes another; run it "
            "yourself with maxact.attach(model), or measure its encoder with maxact.measure(model.get_encoder(), ...)"
        )
    raise Unusable(
        f"model: {name!r} is of model_type {model_type!r}, "
        f"which transformers {transformers.__version__} does not know as a language model"
    )


def check_tokenizer(name: str, tokenizer: Any) -> None:
    # Without its files transformers 5 makes some tokenizers (gpt2, qwen2, gemma) anew, of special tokens only.
    if len(tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys() - set(tokenizer.all_special_tokens)) < 2:
        raise Unusable(f"model: {name!r} has no usable tokenizer files (tokenizer.json or the like)")


def check_weights(name: str, model: Any, report: dict, say: Callable[[str], None]) -> None:
    """Weights that the checkpoint lacks would be random numbers. Only the head may be absent: it is not measured."""
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        key, stored, expected = mismatched[0]
        raise Unusable(
            f"model: {len(mismatched)} weights of {name!r} do not fit its config.json; the first is {key}: "
            f"shape {list(stored)}, expected {list(expected)}"
        )
    body = model.base_model_prefix + "."
    missing = sorted(report["missing_keys"])
    needed = [key for key in missing if model.base_model is model or key.startswith(body)]
    if needed:
        raise Unusable(f"model: {name!r} lacks {len(needed)} of its weights; the first is {needed[0]}")
    if missing:
        say(f"the checkpoint has no {', '.join(missing)}; it is random, and not measured")


def reason(error: object) -> str:
    text = " ".join(str(error).split())
    text = "".join(character if character.isprintable() else "?" for character in text).rstrip(".")
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " ..."


@contextlib.contextmanager
def quiet(bars: bool) -> Iterator[None]:
    """No load report of thirty lines and no bars but those of a download: what matters is raised."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
