"""What the kernel tests share: where a backend runs, tensors of every bit pattern, and exact comparison of states."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maxact_kernels import ProbeState, backends, fused_probe
from maxact_kernels.fields import INT8_SUMS
from maxact_kernels.summary import exact_value

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

# Everything that a state can hold, so that a law or a hazard is tested on all of it.
EVERYTHING = dict(topk=7, n_samples=3, int8_per_token=True)

# One law needs some ten updates of the reference, 3 ms each; interpreted Triton kernels need a hundred times that.
EXAMPLES = 2 if os.environ.get("TRITON_INTERPRET") == "1" else 25
law = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Place(NamedTuple):
    """A backend and the device it is tested on."""

    backend: str
    device: str

    def probe(self, x, mask=None, token_ids=None, **options) -> ProbeState:
        """`fused_probe` of tensors made on the CPU."""
        return fused_probe(*self.move(x), mask=self.move(mask)[0], token_ids=self.move(token_ids)[0],
                           backend=self.backend, **options)  # fmt: skip

    def stream(self, batches, d: int, dtype: torch.dtype, **options) -> ProbeState:
        """A state that has seen the batches (x, mask, token_ids) in this order."""
        state = ProbeState(d, dtype, self.device, backend=self.backend, **options)
        for batch in batches:
            state.update(*self.move(*batch))
        return state

    def move(self, *tensors):
        return [None if tensor is None else tensor.to(self.device) for tensor in tensors]


def _places() -> dict[str, pytest.param]:
    places, rows = {}, {row.name: row for row in backends()}
    for name, row in rows.items():
        on_gpu = row.device_types is not None and "cpu" not in row.device_types
        why_not = row.why_not or ("no GPU here" if on_gpu and not torch.cuda.is_available() else None)
        marks = [pytest.mark.gpu] if on_gpu else []
        if why_not:
            marks.append(pytest.mark.skip(reason=why_not))
        places[name] = pytest.param(Place(name, "cuda" if on_gpu else "cpu"), id=name, marks=marks)
    return places


_PLACES = _places()
REFERENCE = Place("reference", "cpu")
every_backend = pytest.mark.parametrize("place", list(_PLACES.values()))
every_kernel = pytest.mark.parametrize("place", [p for name, p in _PLACES.items() if name != "reference"])


# Comparison

# The sums over a row of which each backend rounds the row's total in its own order.
FLOAT_SUMS = ("sum", *INT8_SUMS)
U = 2.0**-24  # unit roundoff of float32, and of an addend of an exact sum


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits on the CPU, so that nan equals itself and 0 is not -0."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def assert_identical(state: ProbeState, expected: ProbeState, besides: tuple[str, ...] = ()) -> None:
    """Every field has the same bits."""
    assert state.fields.keys() == expected.fields.keys()
    for name in state.fields:
        if name not in besides:
            mine, theirs = bits(state.fields[name]), bits(expected.fields[name])
            assert torch.equal(mine, theirs), f"{name}: {state.fields[name]}, expected {expected.fields[name]}"


def assert_agrees(state: ProbeState, expected: ProbeState, x: torch.Tensor) -> None:
    """Every field has the same bits, and the sums of rounded rows are within their bounds. `x`: all that was seen."""
    assert_identical(state, expected, besides=FLOAT_SUMS)
    # sum: float32 lanes of 16 additions, the first of them to 0, are off by 15 U sum|x|; matrix units by less, which cut five
    # times, 2 U each, before two additions; the row's total is rounded to 24 bits here and in the reference, U sum|x| each.
    # (1 + 2^-10) covers products of these.
    finite = x[x.isfinite()].double()
    assert abs(value(state, "sum") - value(expected, "sum")) <= 17 * U * (1 + 2**-10) * finite.abs().sum().item()
    if state.options.int8_per_token:
        _assert_int8_sums_agree(state, expected)


def _assert_int8_sums_agree(state: ProbeState, expected: ProbeState) -> None:
    """u = x * (127 / m_t) carries two float32 roundings, so it is off by at most 2 U |u|; u - round(u) is then exact.

    |err| moves by no more than u does, and its root of squares by no more than the root of squares of the moves
    (Minkowski); a sum of float32 lanes adds 15 U, a square U, rounding to 24 bits U here and U in the reference.
    """
    slack = 1 + 2**-10  # products of roundings
    square, absolute, error_square, error_abs = (value(expected, name) for name in INT8_SUMS)
    mine = [value(state, name) for name in INT8_SUMS]
    assert abs(mine[0] - square) <= (2 * 2 + 1 + 15 + 2) * U * slack * square
    assert abs(mine[1] - absolute) <= (2 + 15 + 2) * U * slack * absolute
    assert (
        abs(math.sqrt(mine[2]) - math.sqrt(error_square))
        <= (2 * U * math.sqrt(square) + (1 + 15 + 2) / 2 * U * math.sqrt(error_square)) * slack
    )
    assert abs(mine[3] - error_abs) <= (2 * U * absolute + (15 + 2) * U * error_abs) * slack


def value(state: ProbeState, name: str) -> float:
    """The value of an exact sum."""
    return exact_value(state.fields[name].cpu().numpy())


# Data

_FORMATS = {  # type of the bits, signed for torch, bits of infinity, bits of the significand after its point
    torch.bfloat16: (np.uint16, np.int16, 0x7F80, 7),
    torch.float16: (np.uint16, np.int16, 0x7C00, 10),
    torch.float32: (np.uint32, np.int32, 0x7F800000, 23),
}


def from_bits(pattern, dtype: torch.dtype) -> torch.Tensor:
    """The tensor with these bits (integers or an array of them)."""
    unsigned, signed, *_ = _FORMATS[dtype]
    return torch.from_numpy(np.asarray(pattern).astype(unsigned).view(signed).copy()).view(dtype)


def infinity_bits(dtype: torch.dtype) -> int:
    return _FORMATS[dtype][2]


def smallest_normal_bits(dtype: torch.dtype) -> int:
    return 1 << _FORMATS[dtype][3]


def sign_bit(dtype: torch.dtype) -> int:
    return 1 << (8 * dtype.itemsize - 1)


def patterns(dtype: torch.dtype, finite: bool = False, largest: int | None = None):
    """Bits of elements: zeros, ties, subnormals, huge values, and unless `finite` inf and nan of several payloads."""
    infinity, normal = infinity_bits(dtype), smallest_normal_bits(dtype)
    top = infinity - 1 if largest is None else largest
    values = torch.tensor([1.0, 0.1, 0.0999, 100.0, 100.5, 101.0, 127.0, 1000.0, 0.5], dtype=dtype)
    specials = [0, 1, 2, normal - 1, normal, *bits(values).tolist(), infinity - 2, infinity - 1]
    magnitudes = [st.sampled_from([s for s in specials if s <= top]), st.integers(0, top)]
    if not finite:
        magnitudes.append(st.sampled_from([infinity, infinity + 1, infinity + normal // 2, sign_bit(dtype) - 1]))
    signs = st.sampled_from([0, sign_bit(dtype)])
    return st.builds(int.__or__, st.one_of(*magnitudes), signs)


@st.composite
def tensors(draw, dtype=None, tokens=(0, 6), d=(1, 20), finite: bool = False, largest=None) -> torch.Tensor:
    """A tensor [n, d]."""
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    shape = draw(st.integers(*tokens)), draw(st.integers(*d))
    return from_bits(draw(arrays(_FORMATS[dtype][0], shape, elements=patterns(dtype, finite, largest))), dtype)


def ids_for(n: int):
    """n token ids: samples 0 to 2, few positions, so that some tokens share one."""
    return st.lists(st.integers(0, 2).flatmap(lambda s: st.integers(0, 4).map(lambda p: s << 32 | p)),
                    min_size=n, max_size=n).map(lambda ids: torch.tensor(ids, dtype=torch.int64))  # fmt: skip


def masks_for(n: int):
    return st.lists(st.booleans(), min_size=n, max_size=n).map(lambda kept: torch.tensor(kept, dtype=torch.bool))


def noise(*shape: int, dtype=torch.bfloat16, seed: int = 0) -> torch.Tensor:
    """Normal numbers, a feature of every token far larger."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[..., shape[-1] // 3] *= 300
    return x.to(dtype)
