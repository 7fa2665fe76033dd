"""States on disk: safetensors, large tables sparse, read back with every size checked. Needs no PyTorch."""

from __future__ import annotations

import contextlib
import json
import math
import os

import numpy as np
import safetensors
import safetensors.numpy

from .fields import Options, fields

SCHEMA = 1
_SPARSE = 512  # tables of at least so many integers are written as (index, value): most cells are zero


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write to a temporary name beside `path`, then replace: a failure leaves what was there. Raises OSError of `path`."""
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.new")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise


class Arrays(dict):
    """Fields by name. A large table may be held as (index, value, shape); looking it up makes it whole."""

    def __getitem__(self, name: str) -> np.ndarray:
        held = super().__getitem__(name)
        if isinstance(held, np.ndarray):
            return held
        index, value, shape = held
        whole = np.zeros(math.prod(shape), dtype=value.dtype)
        whole[index] = value
        return whole.reshape(shape)

    def add_to(self, whole: np.ndarray, name: str) -> None:
        """Add a table to one of its shape, in place."""
        held = super().__getitem__(name)
        if isinstance(held, np.ndarray):
            whole += held
        else:
            index, value, _ = held
            whole.reshape(-1)[index] += value  # no index occurs twice


def pack(options: Options, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The fields of a state as a file holds them."""
    packed = {}
    for field in fields(options):
        array = arrays[field.name]
        if field.rule == "sum" and array.size >= _SPARSE:
            flat = array.reshape(-1)
            index = flat.nonzero()[0]
            packed[field.name + ".index"], packed[field.name + ".value"] = index.astype(np.int32), flat[index]
        else:
            packed[field.name] = array
    return packed


def unpack(options: Options, packed: dict[str, np.ndarray]) -> Arrays:
    """The fields of a state from a file; ValueError if anything has another name, size or dtype."""
    arrays, left = Arrays(), dict(packed)

    def take(name: str, dtype: str, shape: tuple | None) -> np.ndarray:
        array = left.pop(name, None)
        if array is None:
            raise ValueError(f"{name} is missing")
        if array.dtype != dtype or (array.shape != shape if shape is not None else array.ndim != 1):
            expected = "one axis" if shape is None else f"shape {list(shape)}"
            raise ValueError(f"{name}: {array.dtype} of shape {list(array.shape)}, expected {dtype} of {expected}")
        return array

    for field in fields(options):
        size = math.prod(field.shape)
        if field.rule == "sum" and size >= _SPARSE:
            index = take(field.name + ".index", "int32", None)
            value = take(field.name + ".value", "int64", index.shape)
            if index.size and (index[0] < 0 or index[-1] >= size or (index[1:] <= index[:-1]).any()):
                raise ValueError(f"{field.name}.index: expected increasing numbers from 0 to {size - 1}")
            arrays[field.name] = index, value, field.shape
        else:
            arrays[field.name] = take(field.name, field.dtype, field.shape)
    if left:
        raise ValueError(f"{min(left)}: no such field")
    return arrays


def save_state(path: str | os.PathLike, options: Options, arrays: dict[str, np.ndarray]) -> None:
    metadata = {"maxact_state": str(SCHEMA), "options": json.dumps(options.to_json())}
    write_atomically(path, safetensors.numpy.save(pack(options, arrays), metadata))


def load_state(path: str | os.PathLike) -> tuple[Options, Arrays]:
    """The options and fields that `save_state` wrote. Raises OSError, or ValueError with the path and the fault."""
    arrays, metadata = read_safetensors(path)
    if metadata.get("maxact_state") != str(SCHEMA):
        found = metadata.get("maxact_state")
        what = f"of schema {found!r}" if found is not None else "something else"
        raise ValueError(f"{os.fspath(path)}: expected a maxact state of schema {SCHEMA}, found {what}")
    try:
        options = Options.from_json(json.loads(metadata.get("options", "null")))
        return options, unpack(options, arrays)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)}: not a maxact state: {error}") from None


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays and the metadata of a safetensors file. Raises OSError, or ValueError if it is not one."""
    with open(path, "rb"):  # the plain error for a missing or unreadable file
        pass
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)}: not a readable safetensors file: {error}") from None
