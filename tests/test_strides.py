"""Any layout gives the answer of its contiguous copy, and nothing outside the view is read or written."""

import math

import pytest
import torch
from probes import EVERYTHING, assert_identical, every_backend, every_dtype, noise

# Views of a tensor [4, 6, 5, 32]: what surrounds and lies between them holds sentinels.
VIEWS = {
    "rows and columns inside": lambda t: t[1:3, 1:5, 1:4, 3:29],
    "odd storage offset": lambda t: t[..., 1:],
    "every other row": lambda t: t[:, ::2, 1::2],
    "transposed leading axes": lambda t: t.transpose(0, 1)[1:],
    "reversed leading axes": lambda t: t.permute(2, 1, 0, 3)[..., :-1],
    "last axis strided": lambda t: t[..., ::3],
    "last axis strided, one feature": lambda t: t[..., 7:8],
    "last axis is a leading one": lambda t: t.permute(3, 0, 2, 1)[2:30],
    "one row": lambda t: t[2, 3, 1],
    "a column": lambda t: t[:, 2, 3, 5],
    "expanded": lambda t: t[1:2, :, :1].expand(3, -1, 4, -1),
    "expanded and transposed": lambda t: t[:, :1, 1:3].expand(-1, 7, -1, -1).transpose(0, 2),
    "one element everywhere": lambda t: t[1:2, 1:2, 1:2, 1:2].expand(2, 3, 4, 9),
    "five axes that do not join": lambda t: t.unfold(1, 2, 1)[::2].permute(4, 2, 0, 1, 3)[..., 2:31],
    "six axes that do not join": lambda t: t.unfold(1, 3, 2).unfold(0, 2, 1).permute(5, 2, 0, 4, 1, 3),
    "overlapping windows": lambda t: t.as_strided((9, 16), (8, 1), 37),
    "windows that overlap by all but one": lambda t: t.as_strided((5, 4, 11), (1, 1, 1), 5),
}


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])  # either element size
@pytest.mark.parametrize("sentinel", [math.nan, "largest"], ids=str)
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_equals_its_contiguous_copy(place, dtype, sentinel, name):
    sentinel = torch.finfo(dtype).max if sentinel == "largest" else sentinel
    base = torch.full((4, 6, 5, 32), sentinel, dtype=dtype, device=place.device)
    view = VIEWS[name](base)
    # Written through the view, so that what lies outside it keeps the sentinel.
    positions = VIEWS[name](torch.arange(base.numel(), device=place.device).view(base.shape))
    filling = noise(base.numel(), 1, dtype=dtype).to(place.device).view(-1)
    base.view(-1)[positions.reshape(-1)] = filling[positions.reshape(-1)]
    before = base.clone()

    copy = view.clone(memory_format=torch.contiguous_format)
    assert copy.isfinite().all()
    mask = torch.arange(copy[..., 0].numel(), device=place.device).view(copy.shape[:-1]) % 3 != 0
    ids = (7 * torch.arange(mask.numel(), device=place.device) % 11).view(mask.shape)
    for tokens in ((None, None), (mask, ids)):
        assert_identical(place.probe(view, *tokens, **EVERYTHING), place.probe(copy, *tokens, **EVERYTHING))
    assert torch.equal(base.nan_to_num(nan=7.0), before.nan_to_num(nan=7.0))


@every_backend
@every_dtype
def test_tokens_of_any_layout_are_numbered_in_row_major_order(place, dtype):
    base = torch.ones(3, 4, 5, 6, 8, dtype=dtype, device=place.device)
    x = base.permute(2, 0, 3, 1, 4)[:, :, ::2]  # [5, 3, 3, 4, 8], four axes that do not join
    x[4, 1, 2, 3, 6] = 50.0
    s = place.probe(x).summary()
    assert (s.topk.token_ids[0], s.topk.features[0]) == (((4 * 3 + 1) * 3 + 2) * 4 + 3, 6)


@every_backend
def test_a_lazily_negated_view_has_its_signs(place):
    x = torch.tensor([[1.0, -2.0, 3.0]], device=place.device)
    assert_identical(place.probe(torch._neg_view(x)), place.probe(-x))


@every_backend
def test_a_tensor_that_needs_gradients_is_measured_without_them(place):
    x = noise(4, 8, dtype=torch.float32)
    state = place.probe(x.clone().requires_grad_() * 1.0)
    assert_identical(state, place.probe(x))
    assert not any(field.requires_grad for field in state.fields.values())


@every_backend
def test_inference_tensors_are_measured(place):
    x = noise(4, 8)
    state = place.probe(x)
    with torch.inference_mode():
        state.update(*place.move(x * 1))
    state.update(*place.move(x))
    assert state.summary().n_tokens == 12
