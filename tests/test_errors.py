"""Bad input is a TypeError or ValueError that names the argument, before anything is changed."""

import numpy as np
import pytest
import torch
from probes import DTYPES, EVERYTHING, REFERENCE, every_backend, noise

from maxact_kernels import ProbeState, fused_probe

OTHER = torch.device("meta")  # a second device that every machine has
X = noise(4, 7, 8)
PLAIN, COUNTS = torch.ones(2, 8), torch.ones(4, 7, dtype=torch.int64)
KEPT, ELSEWHERE = COUNTS.bool(), torch.ones(4, 7, device=OTHER)

BAD_UPDATES = {  # name: (error, its text, arguments of update on a state of width 8, bfloat16)
    "a list": (TypeError, "x: list, expected a torch.Tensor", ([1.0],)),
    "a NumPy array": (TypeError, "x: ndarray, expected a torch.Tensor", (np.ones((2, 8)),)),
    "integers": (TypeError, "x: dtype torch.int32, expected bfloat16, float16 or float32; cast it first", (PLAIN.int(),)),
    "booleans": (TypeError, "x: dtype torch.bool", (PLAIN.bool(),)),
    "complex numbers": (TypeError, "x: dtype torch.complex64", (PLAIN.cfloat(),)),
    "float64": (TypeError, "x: dtype torch.float64", (PLAIN.double(),)),
    "float8": (TypeError, "x: dtype torch.float8_e4m3fn", (PLAIN.to(torch.float8_e4m3fn),)),
    "no axis": (ValueError, "x: a 0-d tensor, expected [..., d] with at least one axis", (X[0, 0, 0],)),
    "another width": (ValueError, "x: width 9, expected 8 like the state", (noise(4, 9),)),
    "another width, empty": (ValueError, "x: width 9, expected 8 like the state", (noise(0, 9),)),
    "another dtype": (ValueError, "x: dtype torch.float16, expected torch.bfloat16 like the state", (X.half(),)),
    "another device": (ValueError, "x: on meta, expected cpu like the state", (X.to(OTHER),)),
    "mask: a list": (TypeError, "mask: list, expected a torch.Tensor", (X, [True])),
    "mask: integers": (TypeError, "mask: dtype torch.int64, expected torch.bool", (X, COUNTS)),
    "mask: bytes": (TypeError, "mask: dtype torch.uint8, expected torch.bool", (X, COUNTS.byte())),
    "mask: too short": (ValueError, "mask: shape [4, 6], expected [4, 7] like x", (X, KEPT[:, 1:])),
    "mask: flat": (ValueError, "mask: shape [28], expected [4, 7] like x", (X, KEPT.flatten())),
    "mask: would broadcast": (ValueError, "mask: shape [1, 7], expected [4, 7] like x", (X, KEPT[:1])),
    "mask: x's own shape": (ValueError, "mask: shape [4, 7, 8], expected [4, 7] like x", (X, X > 0)),
    "mask: elsewhere": (ValueError, "mask: on meta, expected cpu like x", (X, ELSEWHERE.bool())),
    "ids: a list": (TypeError, "token_ids: list, expected a torch.Tensor", (X, None, [1])),
    "ids: int32": (TypeError, "token_ids: dtype torch.int32, expected torch.int64", (X, None, COUNTS.int())),
    "ids: floats": (TypeError, "token_ids: dtype torch.float32, expected torch.int64", (X, None, COUNTS.float())),
    "ids: another shape": (ValueError, "token_ids: shape [7, 4], expected [4, 7] like x", (X, None, COUNTS.T)),
    "ids: elsewhere": (ValueError, "token_ids: on meta, expected cpu like x", (X, None, ELSEWHERE.long())),
    "a good mask, bad ids": (ValueError, "token_ids: shape [3], expected [4, 7]", (X, KEPT, COUNTS[0, :3])),
    "an empty x, a bad mask": (ValueError, "mask: shape [1], expected [0] like x", (X[:0, 0], KEPT[0, :1])),
}  # fmt: skip


def on_device(place, text: str, arguments: tuple) -> tuple[str, tuple]:
    """CPU tensors moved to where the backend runs, and its device in the message."""
    moved = [a.to(place.device) if isinstance(a, torch.Tensor) and a.device != OTHER else a for a in arguments]
    return text.replace("cpu", str(torch.empty(0, device=place.device).device)), tuple(moved)


@every_backend
@pytest.mark.parametrize("name", BAD_UPDATES)
def test_a_bad_update_is_refused_and_changes_nothing(place, name):
    error, text, arguments = BAD_UPDATES[name]
    text, arguments = on_device(place, text, arguments)
    state = place.probe(X, **EVERYTHING)
    before = state.buffer.clone()
    with pytest.raises(error) as raised:
        state.update(*arguments)
    assert str(raised.value).startswith(text)
    assert torch.equal(state.buffer, before)


@every_backend
@pytest.mark.parametrize("name", [name for name in BAD_UPDATES if not name.startswith("another")])
def test_fused_probe_refuses_the_same(place, name):
    error, text, arguments = BAD_UPDATES[name]
    text, (x, *tokens) = on_device(place, text, arguments)
    with pytest.raises(error) as raised:
        fused_probe(x, **dict(zip(("mask", "token_ids"), tokens, strict=False)), backend=place.backend)
    assert str(raised.value).startswith(text)


BAD_OPTIONS = [
    (dict(topk=0), ValueError, "topk: 0, expected 1 to 1024"),
    (dict(topk=1025), ValueError, "topk: 1025, expected 1 to 1024"),
    (dict(topk=-1), ValueError, "topk: -1, expected 1 to 1024"),
    (dict(topk=10.0), TypeError, "topk: 10.0, expected an integer"),
    (dict(topk=True), TypeError, "topk: True, expected an integer"),
    (dict(topk=None), TypeError, "topk: None, expected an integer"),
    (dict(n_samples=-1), ValueError, "n_samples: -1, expected 0 to 2147483647"),
    (dict(n_samples=2**31), ValueError, "n_samples: 2147483648, expected 0 to 2147483647"),
    (dict(n_samples="3"), TypeError, "n_samples: '3', expected an integer"),
    (dict(t_abs=-1.0), ValueError, "t_abs: -1.0, expected a finite float32 of at least 0"),
    (dict(t_abs=float("nan")), ValueError, "t_abs: nan, expected a finite float32 of at least 0"),
    (dict(t_abs=10**400), ValueError, "t_abs: 1000"),
    (dict(t_ratio=float("inf")), ValueError, "t_ratio: inf, expected a finite float32 of at least 0"),
    (dict(t_ratio=1e39), ValueError, "t_ratio: 1e+39, expected a finite float32 of at least 0"),
    (dict(t_ratio="1000"), TypeError, "t_ratio: '1000', expected a number"),
    (dict(t_ratio=True), TypeError, "t_ratio: True, expected a number"),
    (dict(counts=1), TypeError, "counts: 1, expected True or False"),
    (dict(medians=None), TypeError, "medians: None, expected True or False"),
    (dict(int8_per_token="no"), TypeError, "int8_per_token: 'no', expected True or False"),
    (dict(backend="cudnn"), ValueError, "backend: 'cudnn', expected one of "),
    (dict(backend=3), ValueError, "backend: 3, expected one of "),
]


@pytest.mark.parametrize("options, error, text", BAD_OPTIONS, ids=[text[:30] for *_, text in BAD_OPTIONS])
def test_bad_options_are_refused_by_name(options, error, text):
    for make in (lambda: fused_probe(X, **options), lambda: ProbeState(8, torch.bfloat16, **options)):
        with pytest.raises(error) as raised:
            make()
        assert str(raised.value).startswith(text)


@pytest.mark.parametrize(
    "d, dtype, error, text",
    [
        (-1, torch.bfloat16, ValueError, "d: -1, expected 0 to 2147483647"),
        (8.0, torch.bfloat16, TypeError, "d: 8.0, expected an integer"),
        (8, torch.float64, TypeError, "dtype: float64, expected bfloat16, float16 or float32; cast the tensor first"),
        (8, torch.int8, TypeError, "dtype: int8, expected"),
        (8, "float", TypeError, "dtype: float, expected"),
    ],
)
def test_a_state_of_no_such_width_or_dtype_is_refused(d, dtype, error, text):
    with pytest.raises(error) as raised:
        ProbeState(d, dtype)
    assert str(raised.value).startswith(text)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_limits_themselves_are_welcome(dtype):
    for options in (dict(topk=1), dict(topk=1024), dict(t_abs=0, t_ratio=0), dict(t_abs=3.4028234663852886e38)):
        assert fused_probe(X.to(dtype), **options).summary().n_tokens == 28


OTHERS = [
    (dict(topk=5), "other: topk=5, expected 7 like this state"),
    (dict(t_abs=99.0), "other: t_abs=99.0, expected 100.0 like this state"),
    (dict(t_ratio=1.0), "other: t_ratio=1.0, expected 1000.0 like this state"),
    (dict(n_samples=0), "other: n_samples=0, expected 3 like this state"),
    (dict(counts=False), "other: counts=False, expected True like this state"),
    (dict(medians=False), "other: medians=False, expected True like this state"),
    (dict(int8_per_token=False), "other: int8_per_token=False, expected True like this state"),
]


@every_backend
@pytest.mark.parametrize("options, text", OTHERS, ids=[text for _, text in OTHERS])
def test_a_state_with_other_options_does_not_merge(place, options, text):
    state, other = place.probe(X, **EVERYTHING), place.probe(X, **{**EVERYTHING, **options})
    before = state.buffer.clone()
    with pytest.raises(ValueError, match=text):
        state.merge(other)
    assert torch.equal(state.buffer, before)


@every_backend
def test_what_is_no_such_state_does_not_merge(place):
    state = place.probe(X, **EVERYTHING)
    before = state.buffer.clone()
    with pytest.raises(ValueError, match="other: d=9, expected 8 like this state"):
        state.merge(place.probe(noise(2, 9), **EVERYTHING))
    with pytest.raises(ValueError, match="other: dtype=float16, expected bfloat16 like this state"):
        state.merge(place.probe(X.half(), **EVERYTHING))
    for other in (None, {}, state.fields, state.summary()):
        with pytest.raises(TypeError, match=f"other: {type(other).__name__}, expected a ProbeState"):
            state.merge(other)
    assert torch.equal(state.buffer, before)


@every_backend
def test_a_state_that_refused_goes_on(place):
    state = place.probe(X, **EVERYTHING)
    with pytest.raises(ValueError):
        state.update(*place.move(X, torch.ones(3, dtype=torch.bool)))
    state.update(*place.move(X))
    both = torch.cat((X, X))
    assert torch.equal(state.buffer, place.probe(both, **EVERYTHING).buffer)


def test_options_can_only_be_named():
    with pytest.raises(TypeError):
        fused_probe(X, None)
    with pytest.raises(TypeError):
        ProbeState(8, torch.bfloat16, "cpu", 100)
    with pytest.raises(TypeError, match="treshold"):
        REFERENCE.probe(X, treshold=1)
