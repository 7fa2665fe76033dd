"""Every backend gives the reference's answer: bit for bit, the float sums of a row within their bounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import (
    EVERYTHING,
    REFERENCE,
    assert_agrees,
    every_dtype,
    every_kernel,
    ids_for,
    law,
    masks_for,
    noise,
    tensors,
)


@every_kernel
@every_dtype
@law
@given(st.data())
def test_any_tensor_mask_ids_and_options(place, dtype, data):
    x = data.draw(tensors(dtype, d=(1, 40)))
    mask = data.draw(st.none() | masks_for(len(x)))
    ids = data.draw(st.none() | ids_for(len(x)))
    options = dict(
        topk=data.draw(st.sampled_from([1, 3, 100])),
        t_abs=data.draw(st.sampled_from([100.0, 0.0, 0.5])),
        t_ratio=data.draw(st.sampled_from([1000.0, 0.0, 1.0, 7.3])),
        n_samples=data.draw(st.sampled_from([0, 2, 3])),
        counts=data.draw(st.booleans()),
        medians=data.draw(st.booleans()),
        int8_per_token=data.draw(st.booleans()),
    )
    seen = x if mask is None else x[mask]
    assert_agrees(place.probe(x, mask, ids, **options), REFERENCE.probe(x, mask, ids, **options), seen)


@every_kernel
@every_dtype
@law
@given(st.data())
def test_any_stream_of_tensors(place, dtype, data):
    d = data.draw(st.integers(1, 20))
    batches = []
    for _ in range(data.draw(st.integers(1, 4))):
        x = data.draw(tensors(dtype, d=(d, d)))
        batches.append((x, data.draw(st.none() | masks_for(len(x))), data.draw(st.none() | ids_for(len(x)))))
    seen = torch.cat([x if mask is None else x[mask] for x, mask, _ in batches])
    states = [where.stream(batches, d, dtype, **EVERYTHING) for where in (place, REFERENCE)]
    assert_agrees(*states, seen)


@every_kernel
@every_dtype
@pytest.mark.parametrize("shape", [(3, 5, 1024), (64, 257), (2, 4099), (300, 16)], ids=str)
def test_ordinary_activations(place, dtype, shape):
    x = noise(*shape, dtype=dtype)
    options = dict(topk=100, int8_per_token=True)
    assert_agrees(place.probe(x, **options), REFERENCE.probe(x, **options), x)


@every_kernel
@every_dtype
def test_a_tensor_is_only_read(place, dtype):
    x = noise(9, 33, dtype=dtype).to(place.device)
    mask = torch.arange(9, device=place.device) % 2 == 0
    ids = torch.arange(9, device=place.device)
    before = [t.clone() for t in (x, mask, ids)]
    place.probe(x, mask, ids, int8_per_token=True)
    assert all(torch.equal(now, then) for now, then in zip((x, mask, ids), before, strict=True))
