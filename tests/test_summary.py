"""A summary: plain numbers and arrays under stable names, of one moment; what was left out says so."""

import json
import math

import numpy as np
import pytest
import torch
from probes import EVERYTHING, REFERENCE, every_backend, every_dtype, noise

INTS = ("n_elements n_tokens n_zero n_nan n_inf n_nonfinite_tokens n_absmax n_massive_tokens n_massive_elements "
        "n_zero_median ratio_max_token").split()  # fmt: skip
FLOATS = ("absmax min max ratio_max ratio_max_absmax ratio_max_median peak_median peak_ratio ratio_mean ratio_std mean "
          "abs_mean rms std").split()  # fmt: skip
ARRAYS = {"counts": (32768,), "ratio_table": (256, 128), "channel_absmax": (8,), "sample_absmax": (3,),
          "sample_massive": (3,), "sample_tokens": (3,)}  # fmt: skip


@every_backend
@every_dtype
def test_every_name_of_the_specification_is_a_plain_value(place, dtype):
    s = place.probe(noise(6, 8, dtype=dtype), **EVERYTHING).summary()
    for name in INTS:
        assert type(getattr(s, name)) is int, name
    for name in FLOATS:
        assert type(getattr(s, name)) is float, name
    for name, shape in ARRAYS.items():
        assert isinstance(getattr(s, name), np.ndarray) and getattr(s, name).shape == shape, name
    assert type(s.exact) is bool and s.first_nonfinite is None
    assert all(isinstance(column, np.ndarray) and column.shape == (7,) for column in s.topk)
    assert all(type(v) is float for v in (*s.int8_per_token, s.quantile(0.5)))


@every_backend
def test_a_summary_does_not_move_with_its_state(place):
    state = place.probe(noise(6, 8), **EVERYTHING)
    s = state.summary()
    kept = {name: array.copy() for name, array in s._arrays.items()}
    state.update(*place.move(100 * noise(6, 8)))
    state.merge(state)
    for name, array in kept.items():
        np.testing.assert_array_equal(s._arrays[name], array, err_msg=name)
    assert s.n_tokens == 6 and s.quantile(1) == s.absmax


@every_backend
def test_summaries_are_repeatable_and_change_nothing(place):
    state = place.probe(noise(6, 8), **EVERYTHING)
    before = state.buffer.clone()
    first, second = state.summary(), state.summary()
    assert first.scalars() == second.scalars() and torch.equal(state.buffer, before)


LEFT_OUT = {
    "counts": ["counts", "abs_mean", "rms", "std"],
    "medians": ["ratio_mean", "ratio_std", "ratio_table"],
}


@every_backend
@pytest.mark.parametrize("option", LEFT_OUT)
def test_asking_for_what_was_left_out_names_the_option(place, option):
    x = noise(30, 9)
    s, full = (place.probe(x, topk=5, **options).summary() for options in ({option: False}, {}))
    for name in LEFT_OUT[option]:
        with pytest.raises(ValueError, match=f"{option}: left out of this state; make it with {option}=True"):
            getattr(s, name)
    for name in full.scalars().keys() - set(LEFT_OUT[option]):
        assert getattr(s, name) == getattr(full, name), name
    assert s.scalars().keys() == full.scalars().keys() - set(LEFT_OUT[option])
    if option == "counts":
        for ask in (lambda: s.quantile(0.5), lambda: s.quantization_error("int8")):
            with pytest.raises(ValueError, match="counts: left out of this state"):
                ask()
        assert (s.ratio_table == full.ratio_table).all()
    else:
        assert (s.counts == full.counts).all()


def test_int8_and_samples_are_left_out_unless_asked_for():
    s = REFERENCE.probe(noise(3, 8)).summary()
    with pytest.raises(ValueError, match="int8_per_token: left out of this state; make it with int8_per_token=True"):
        _ = s.int8_per_token
    for name in ("sample_absmax", "sample_massive", "sample_tokens"):
        with pytest.raises(ValueError, match="n_samples: left out of this state; make it with a positive n_samples"):
            getattr(s, name)


@pytest.mark.parametrize("options", [{}, EVERYTHING, dict(counts=False, medians=False)], ids=str)
@pytest.mark.parametrize("shape", [(0, 8), (6, 8)], ids=str)
def test_scalars_are_json_and_hold_every_single_number(options, shape):
    s = REFERENCE.probe(noise(*shape), **options).summary()
    scalars = s.scalars()
    json.dumps(scalars)
    left_out = set() if options.get("counts", True) else {*LEFT_OUT["counts"], *LEFT_OUT["medians"]}
    assert {*INTS, *FLOATS, "exact", "first_nonfinite"} - left_out <= scalars.keys()
    assert not scalars.keys() & {"counts", "topk", "ratio_table", *ARRAYS}
    assert ("int8_per_token" in scalars) == options.get("int8_per_token", False)


@every_backend
def test_a_repr_says_what_a_state_is_for(place):
    text = repr(place.stream([], 8, torch.bfloat16, topk=3))
    assert text.startswith("ProbeState(d=8, bfloat16, ") and f"topk=3, backend={place.backend}" in text


@every_backend
def test_a_five_line_example(place):
    s = place.probe(torch.tensor([[0.5, -200.0, 0.125], [1.0, 2.0, 3.0]]).bfloat16()).summary()
    assert (s.absmax, s.ratio_max, s.n_massive_tokens) == (200.0, 400.0, 0)
    assert (s.min, s.max, s.mean) == (-200.0, 3.0, pytest.approx(-193.375 / 6, rel=1e-6))
    assert [column[0].item() for column in s.topk] == [-200.0, 0, 1]
    assert s.quantile(0.5) == 1.0 and math.isclose(s.ratio_mean, (400 + 1.5) / 2)
