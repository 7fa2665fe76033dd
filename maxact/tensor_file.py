"""The statistics of tensors from anywhere: every float tensor of a .safetensors or .npy file."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import safetensors
import torch

from maxact_kernels import fused_probe
from maxact_kernels.summary import Summary


def summaries(path: str, pattern: str = "*", **options) -> Iterator[tuple[str, tuple[int, ...], str, Summary | str]]:
    """(name, shape, dtype, summary) of each tensor whose name matches; a reason in its place where there is none.

    The last axis is the features. float64 is measured as float32, which the dtype says. Options: those of `fused_probe`.
    Raises OSError, or ValueError if the file is of another kind or cannot be read.
    """
    for name, shape, tensor in _tensors(Path(path), pattern):
        if isinstance(tensor, str):
            yield name, shape, "?", tensor
            continue
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.dtype == torch.float64:
            tensor, dtype = tensor.float(), "float64 as float32"
        if tensor.dtype not in (torch.bfloat16, torch.float16, torch.float32):
            yield name, shape, dtype, "not a float tensor of 16 or 32 bits"
        elif tensor.numel() == 0:
            yield name, shape, dtype, "empty"
        else:
            yield (
                name,
                shape,
                dtype,
                fused_probe(tensor.reshape(1) if tensor.ndim == 0 else tensor, **options).summary(),
            )


def _tensors(path: Path, pattern: str) -> Iterator[tuple[str, tuple[int, ...], torch.Tensor | str]]:
    with open(path, "rb"):  # the plain error for a missing or unreadable file
        pass
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a readable .npy file of numbers: {error}") from None
        if array.dtype.kind != "f":
            yield path.stem, array.shape, f"{array.dtype} is not a float type"
        else:
            yield path.stem, array.shape, torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    elif path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if fnmatchcase(name, pattern)]
                if not names:
                    raise ValueError(f"{path}: no tensor matches {pattern!r}")
                for name in names:
                    yield name, tuple(file.get_slice(name).get_shape()), file.get_tensor(name)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file: {error}") from None
    else:
        raise ValueError(f"{path}: expected a .safetensors or .npy file")
