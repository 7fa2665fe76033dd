"""From a name to a model that can be measured: a directory, a hub id, a .gguf file, or `smollm2-135m`.

Whatever is wrong with a name, its files or an option is a ValueError or OSError of one sentence.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .gguf_file import SMOLLM2, convert_gguf, find_smollm2
from .identity import config_digest
from .model_checks import Unusable, check_files, check_tokenizer, check_weights, model_class, quiet, reason

DTYPES = ("auto", "bfloat16", "float16", "float32")
SPLITS = ("layers", "tensors")  # over the GPUs of one process; over processes, each with a part of every projection


@dataclass
class LoadedModel:
    """A model in eval mode on its device, its tokenizer, and where both came from (JSON-able, no path of this machine).

    provenance: model_id, source (directory, hub, gguf or package), revision (a hub commit, or None), file_sha256 (of
    the .gguf file, or None), config_digest, model_type, dtype, attn (the implementation in use), n_parameters,
    tokenizer {class, vocab_size}, trust_remote_code.
    """

    model: Any
    tokenizer: Any
    provenance: dict[str, Any]


class _Found(NamedTuple):
    location: str  # what from_pretrained is given
    model_id: str
    source: str
    revision: str | None = None
    file_sha256: str | None = None
    cached_only: bool = False  # the hub was out of reach: ask it nothing more


def load_model(
    name: str | os.PathLike,
    *,
    dtype: str = "auto",
    device: str = "auto",
    attn: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Callable[[str], None] | None = None,
) -> LoadedModel:
    """Load a language model and its tokenizer, with all of its weights, none from pickle.

    name: a directory with config.json, a .gguf file, `smollm2-135m`, or a hub id. dtype "auto": what the checkpoint is
    stored in. device "auto": cuda if there is one, else cpu. attn: an `attn_implementation` of transformers. split, for a
    model larger than a GPU: "layers", over the GPUs of this process and what does not fit on the CPU
    (`device_map="auto"`); "tensors", over the processes of torch.distributed (`tp_plan="auto"`).
    progress is called with one line before each step that takes long. Raises ValueError or OSError.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype!r}, expected one of {', '.join(DTYPES)}")
    if attn is not None and "/" in attn and not trust_remote_code:
        raise ValueError(f"attn: {attn!r} is code from the hub, which only runs with --trust-remote-code")
    if split not in (None, *SPLITS):
        raise ValueError(f"split: {split!r}, expected {' or '.join(SPLITS)}")
    placement = {} if split is None else _split_options(split)
    name = os.fspath(name)
    say = progress or (lambda line: None)
    found = _find(name, revision, say)

    import torch
    import transformers

    target = _device(device)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": found.cached_only}
    if found.revision is not None:
        options["revision"] = found.revision
    with quiet(bars=found.source == "hub"), _one_sentence(name, found):
        config, _ = transformers.PretrainedConfig.get_config_dict(found.location, **options)
        loader = model_class(name, config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(found.location, **options)
        check_tokenizer(name, tokenizer)
        say(f"loading {found.model_id}")
        model, report = loader.from_pretrained(
            found.location,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that check_weights says it in one sentence
            output_loading_info=True,
            **({} if attn is None else {"attn_implementation": attn}),
            **placement,
            **options,
        )
        check_weights(name, model, report, say)
        if model.dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise Unusable(f"model: {name!r} is stored in {_name_of(model.dtype)}; choose one with --dtype float32")
        model = (model if split else model.to(target)).eval()
    provenance = {
        "model_id": found.model_id,
        "source": found.source,
        "revision": found.revision,
        "file_sha256": found.file_sha256,
        "config_digest": config_digest(config),
        "model_type": model.config.model_type,
        "dtype": _name_of(model.dtype),
        "attn": model.config._attn_implementation,
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokenizer": {"class": type(tokenizer).__name__, "vocab_size": len(tokenizer)},
        "trust_remote_code": trust_remote_code,
    }
    return LoadedModel(model, tokenizer, provenance)


def _find(name: str, revision: str | None, say: Callable[[str], None]) -> _Found:
    path = os.path.expanduser(name)
    directory, gguf = os.path.isdir(path), path.endswith(".gguf")
    if revision is not None and (directory or gguf or name == SMOLLM2):
        raise ValueError(f"revision: {revision!r}, but only a model from the hub has revisions, and {name!r} is local")
    if directory:
        path = os.path.abspath(path)
        files = os.listdir(path)
        if "config.json" not in files:
            raise ValueError(f"model: {name!r} has no config.json, so it is not a model directory")
        check_files(name, files)
        return _Found(path, os.path.basename(path), "directory")
    if name == SMOLLM2:
        return _gguf(find_smollm2(), SMOLLM2, "package", say)
    if not os.path.exists(path) and (gguf or name.startswith((".", os.sep, "~")) or name.count(os.sep) > 1):
        raise FileNotFoundError(f"model: {name!r} does not exist, neither as a directory nor as a file")
    if gguf:
        return _gguf(path, os.path.basename(path), "gguf", say)
    if os.path.exists(path):
        raise ValueError(f"model: {name!r} is a file, expected a model directory, a .gguf file or a hub id")
    return _hub(name, revision, say)


def _gguf(path: str, model_id: str, source: str, say: Callable[[str], None]) -> _Found:
    directory = convert_gguf(path, say)
    return _Found(directory, model_id, source, file_sha256=os.path.basename(directory))


def _hub(name: str, revision: str | None, say: Callable[[str], None]) -> _Found:
    """Pin the commit first, so that config, tokenizer and weights are of one revision, and it can be recorded."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        info = hub.HfApi().model_info(name, revision=revision, timeout=10)
        check_files(name, [file.rfilename for file in info.siblings or []])
        return _Found(name, name, "hub", info.sha)
    except errors.HFValidationError as error:
        raise ValueError(f"model: {name!r} is neither a directory here nor a possible hub id") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"revision: {revision!r} does not exist for {name!r} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"model: {name!r} is neither a directory here nor a model on the hub that this login may read"
        ) from error
    except Unusable:
        raise
    except Exception as error:  # each version of the hub's client has its own classes for no network
        unreachable = error
    try:
        config = hub.hf_hub_download(name, "config.json", revision=revision, local_files_only=True)
    except OSError:
        at = "" if revision is None else f" at revision {revision!r}"
        raise OSError(
            f"model: {name!r} is not a directory here, not in the hub's cache{at}, "
            f"and the hub cannot be reached ({type(unreachable).__name__})"
        ) from unreachable
    snapshot = os.path.dirname(config)
    check_files(name, os.listdir(snapshot))
    say(f"the hub cannot be reached ({type(unreachable).__name__}); taking {name} from its cache")
    return _Found(name, name, "hub", os.path.basename(snapshot), cached_only=True)


@contextlib.contextmanager
def _one_sentence(name: str, found: _Found) -> Iterator[None]:
    """What transformers, tokenizers and safetensors raise, as one sentence about the model."""
    try:
        yield
    except Unusable:
        raise
    except Exception as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise ValueError(
                f"model: {name!r} needs code of its own to be run; read that code, then add --trust-remote-code"
            ) from error
        if "backend tokenizer" in text:
            raise ValueError(f"model: {name!r} has no usable tokenizer files (tokenizer.json or the like)") from error
        if "attn_implementation" in text or "scaled_dot_product_attention" in text or "FlashAttention" in text:
            raise ValueError(f"attn: {reason(error)}") from error
        what = f"model: {name!r} cannot be loaded"
        if type(error).__name__ == "SafetensorError":
            what = f"model: a safetensors file of {name!r} is corrupt"
        if found.source in ("gguf", "package"):
            what += f" from its converted copy (delete {found.location!r} to convert it again)"
        raise ValueError(f"{what}: {reason(error)}") from error


def _device(device: str) -> Any:
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device: {device!r} cannot be used here: {reason(error)}") from error


def _split_options(split: str) -> dict[str, Any]:
    """What from_pretrained is given. Raises ValueError where there is nothing to split over."""
    from .parallel import n_processes

    if split == "layers":
        if n_processes() > 1:
            raise ValueError("split: layers are split over the GPUs of one process; start one, or split tensors")
        return {"device_map": "auto"}
    if n_processes() == 1:
        raise ValueError("split: tensors are split over processes; start them with torchrun --nproc-per-node N -m maxact")
    from transformers.distributed import DistributedConfig

    if "tp_plan" in DistributedConfig.__dataclass_fields__:
        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    return {"tp_plan": "auto"}  # transformers before 5.18


def _name_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
