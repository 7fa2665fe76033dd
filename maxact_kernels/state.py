"""`fused_probe` and `ProbeState`: all that is known of one stream of tensors, on the tensors' device."""

from __future__ import annotations

import os
from functools import lru_cache

import torch

from . import dispatch, op, storage
from .fields import DTYPES, Options, fields
from .merge import merge
from .summary import Summary

_DTYPE_NAMES = {getattr(torch, name): name for name in DTYPES}
_ALIGNMENT = 256  # bytes between fields: whole cache lines and memory transactions on every device


def fused_probe(
    x: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    token_ids: torch.Tensor | None = None,
    topk: int = 100,
    t_abs: float = 100.0,
    t_ratio: float = 1000.0,
    n_samples: int = 0,
    counts: bool = True,
    medians: bool = True,
    int8_per_token: bool = False,
    backend: str | None = None,
) -> ProbeState:
    """Measure a tensor in one read: extremes, top-k, counts of every magnitude, the Sun test, INT-8 error.

    x: bfloat16, float16 or float32, shape [..., d]; each leading index is a token, the last axis its features.
    The other arguments are those of `ProbeState` and `ProbeState.update`. Asynchronous: nothing waits until `summary()`.

    Raises TypeError or ValueError, before anything is read, if an argument is not what it must be.
    """
    _check_tensor(x)
    state = ProbeState(
        x.shape[-1],
        x.dtype,
        x.device,
        topk=topk,
        t_abs=t_abs,
        t_ratio=t_ratio,
        n_samples=n_samples,
        counts=counts,
        medians=medians,
        int8_per_token=int8_per_token,
        backend=backend,
    )
    state.update(x, mask, token_ids)
    return state


class ProbeState:
    """The statistics of a stream of tensors [..., d] of one dtype on one device; starts empty.

    topk: how many of the largest elements to keep with their coordinates, 1 to 1024.
    t_abs, t_ratio: the thresholds of the massive-activation test (Sun et al. 2024, section 2), both strict.
    n_samples: with it, the largest |x| of each sample; a token's sample is the upper half of its id.
    counts=False leaves out the table of magnitudes and all that comes from it (quantiles, moments, quantization error).
    medians=False leaves out the mean, standard deviation and table of the ratios; the Sun test stays exact.
    int8_per_token=True adds the error of per-token dynamic INT-8.
    backend: one of `backends()`; by default the first that takes the device. MAXACT_BACKEND sets another default.

    Raises TypeError or ValueError if an argument is not what it must be.
    """

    def __init__(
        self,
        d: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        topk: int = 100,
        t_abs: float = 100.0,
        t_ratio: float = 1000.0,
        n_samples: int = 0,
        counts: bool = True,
        medians: bool = True,
        int8_per_token: bool = False,
        backend: str | None = None,
    ):
        name = _DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))
        self._set_up(
            Options(d, name, topk, t_abs, t_ratio, n_samples, counts, medians, int8_per_token), device, backend
        )

    def _set_up(self, options: Options, device: torch.device | str, backend: str | None) -> None:
        self.options, self.dtype = options, getattr(torch, options.dtype)
        self.device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        self.backend = dispatch.choose(self.device.type, backend)
        offsets, size = _layout(options)
        with torch.inference_mode(False):  # a state made in inference mode must be usable after it
            self.buffer = torch.zeros(size, dtype=torch.uint8, device=self.device)
            self.fields = {f.name: _view(self.buffer, f, offsets[f.name]) for f in fields(options)}
        for field in fields(options):
            if field.empty != 0:
                self.fields[field.name].fill_(field.empty)
        self.handle = self.backend.prepare(self)
        self.key = op.enter(self)

    @property
    def d(self) -> int:
        return self.options.d

    def __repr__(self) -> str:
        o = self.options
        return f"ProbeState(d={o.d}, {o.dtype}, {self.device}, topk={o.topk}, backend={self.backend.NAME})"

    def update(self, x: torch.Tensor, mask: torch.Tensor | None = None, token_ids: torch.Tensor | None = None) -> None:
        """Fold another tensor in, in place.

        x: shape [..., d], the state's dtype and device. Any strides; a contiguous last axis costs no copy.
        mask: bool, x's leading shape. Tokens where it is False do not exist.
        token_ids: int64, x's leading shape: the caller's name for each token. By default tokens are numbered as they
        arrive, those that the mask hides not counted.

        An empty tensor changes nothing. Raises TypeError or ValueError, before anything is changed, on any other input.
        """
        if torch.compiler.is_compiling():
            torch.ops.maxact.update(self.buffer, x, mask, token_ids, self.key)
            return
        # All that is right in one condition: of the host's time for a small tensor these checks are a part that shows.
        if not (
            type(x) is torch.Tensor
            and x.dtype is self.dtype
            and x.dim()
            and x.shape[-1] == self.options.d
            and x.device == self.device
        ):
            self._check(x)
        if mask is not None:
            _check_per_token("mask", mask, torch.bool, x)
        if token_ids is not None:
            _check_per_token("token_ids", token_ids, torch.int64, x)
        if x.numel():
            if x.requires_grad or x.is_neg():
                x = x.detach().resolve_neg()
            self.backend.update(self, x, mask, token_ids)

    def _check(self, x) -> None:
        _check_tensor(x)
        if x.shape[-1] != self.d:
            raise ValueError(f"x: width {x.shape[-1]}, expected {self.d} like the state")
        if x.dtype is not self.dtype:
            raise ValueError(f"x: dtype {x.dtype}, expected {self.dtype} like the state")
        if x.device != self.device:
            raise ValueError(f"x: on {x.device}, expected {self.device} like the state")

    def merge(self, other: ProbeState) -> None:
        """Fold another state in, in place, as if its tensors had come here. It may be on any device.

        Raises TypeError if it is not a ProbeState, ValueError if its width, dtype or options differ.
        """
        if not isinstance(other, ProbeState):
            raise TypeError(f"other: {type(other).__name__}, expected a ProbeState")
        for name in Options.__dataclass_fields__:
            mine, theirs = getattr(self.options, name), getattr(other.options, name)
            if mine != theirs:
                raise ValueError(f"other: {name}={theirs}, expected {mine} like this state")
        buffer = other.buffer.to(self.device)
        offsets, _ = _layout(self.options)
        merge(self.fields, {f.name: _view(buffer, f, offsets[f.name]) for f in fields(self.options)}, self.options)

    def all_reduce(self, group=None) -> None:
        """Fold the states of all processes of a torch.distributed group into each other, in place, as `merge` does.

        Every process of the group (None: all there are) must call it; for many states at once, `all_reduce.all_reduce`.
        Raises ValueError in every process, and changes nothing, if their options differ.
        """
        from .all_reduce import all_reduce

        all_reduce([self], group)

    def summary(self) -> Summary:
        """The statistics as Python numbers and NumPy arrays: one device-to-host copy, the only synchronisation.

        Raises ValueError if n_samples was given and a token named a sample outside 0 .. n_samples - 1.
        """
        return Summary(self.options, self.host_arrays())

    def host_arrays(self, *, copy: bool = True) -> dict:
        """Every field as a NumPy array on the host, by name; one copy. copy=False: of a state on the CPU its own memory,
        which moves when the state does."""
        host = self.buffer.to("cpu", copy=copy)
        offsets, _ = _layout(self.options)
        return {f.name: _view(host, f, offsets[f.name]).numpy() for f in fields(self.options)}

    def save(self, path: str | os.PathLike) -> None:
        """Write the state to a safetensors file: a temporary name first, then replaced. Raises OSError."""
        storage.save_state(path, self.options, self.host_arrays(copy=False))

    @staticmethod
    def load(path: str | os.PathLike, device: torch.device | str = "cpu", backend: str | None = None) -> ProbeState:
        """Read a state that `save` wrote. Raises OSError, or ValueError if the file is not such a state."""
        return ProbeState.from_arrays(*storage.load_state(path), device, backend)

    @staticmethod
    def from_arrays(
        options: Options, arrays: dict, device: torch.device | str = "cpu", backend: str | None = None
    ) -> ProbeState:
        """A state with these fields, as `storage` reads them from a file."""
        state = ProbeState.__new__(ProbeState)
        state._set_up(options, device, backend)
        for name, field in state.fields.items():
            field.copy_(torch.from_numpy(arrays[name]))
        return state


def read_numbers(states: list[ProbeState], names: tuple[str, ...]) -> list[tuple[int | float, ...]]:
    """These fields of one number of every state: one device-to-host copy for all states of a device."""
    ends = [max(_layout(state.options)[0][name] for name in names) + 8 for state in states]
    by_device: dict[torch.device, list[int]] = {}
    for i, state in enumerate(states):
        by_device.setdefault(state.device, []).append(i)
    found: list[tuple[int | float, ...]] = [()] * len(states)
    for members in by_device.values():
        host = torch.cat([states[i].buffer[: ends[i]] for i in members]).cpu()
        for i, part in zip(members, host.split([ends[i] for i in members])):
            options = states[i].options
            offsets, shapes = _layout(options)[0], {f.name: f for f in fields(options)}
            found[i] = tuple(_view(part.clone(), shapes[name], offsets[name]).item() for name in names)
    return found


@lru_cache
def _layout(options: Options) -> tuple[dict[str, int], int]:
    """Where each field lies in a state's buffer, and the size of it, in bytes."""
    offsets, end = {}, 0
    for field in fields(options):
        align = _ALIGNMENT if field.shape else 8  # scalars share cache lines: they are written together
        offsets[field.name] = end = -(-end // align) * align
        end += getattr(torch, field.dtype).itemsize * _numel(field)
    return offsets, -(-end // _ALIGNMENT) * _ALIGNMENT


def _numel(field) -> int:
    return torch.Size(field.shape).numel()


def _view(buffer: torch.Tensor, field, offset: int) -> torch.Tensor:
    dtype = getattr(torch, field.dtype)
    return buffer[offset : offset + dtype.itemsize * _numel(field)].view(dtype).view(field.shape)


def _check_tensor(x) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x: {type(x).__name__}, expected a torch.Tensor")
    if x.dtype not in _DTYPE_NAMES:
        raise TypeError(
            f"x: dtype {x.dtype}, expected bfloat16, float16 or float32; cast it first, for example x.float()"
        )
    if x.ndim == 0:
        raise ValueError("x: a 0-d tensor, expected [..., d] with at least one axis")


def _check_per_token(name: str, value, dtype: torch.dtype, x: torch.Tensor) -> None:
    """mask and token_ids: one entry per token of x."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: {type(value).__name__}, expected a torch.Tensor")
    if value.dtype is not dtype:
        raise TypeError(f"{name}: dtype {value.dtype}, expected {dtype}")
    if value.shape != x.shape[:-1]:
        raise ValueError(f"{name}: shape {list(value.shape)}, expected {list(x.shape[:-1])} like x")
    if value.device != x.device:
        raise ValueError(f"{name}: on {value.device}, expected {x.device} like x")
