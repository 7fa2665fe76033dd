"""Training: a pass with gradients has the bits of one without, and what the backward pass computes again is not counted."""

from __future__ import annotations

import pytest
import torch
from tiny_models import assert_same_bits, buffers, one_thread, random_ids, tiny  # noqa: F401
from torch.utils.checkpoint import checkpoint

from maxact.hooks import attach

pytestmark = pytest.mark.usefixtures("one_thread")


def train(model, ids, call=None) -> dict:
    """Two steps of training, measured."""
    with attach(model, "gemm", position_0=True) as probe:
        for _ in range(2):
            logits = model(ids).logits if call is None else call(ids)
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    return buffers(probe) | {f"0 {site}": s.buffer for site, s in probe.group_states["position_0"].items()}


def plain() -> tuple[dict, torch.Tensor]:
    model, ids = tiny("llama").train(), random_ids(2, 6)
    with torch.no_grad(), attach(model, "gemm", position_0=True) as probe:
        for _ in range(2):
            model(ids)
    return buffers(probe) | {f"0 {site}": s.buffer for site, s in probe.group_states["position_0"].items()}, ids


def test_a_training_step_is_measured_as_a_plain_forward_pass():
    expected, ids = plain()
    assert_same_bits(train(tiny("llama").train(), ids), expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore")  # transformers and torch both would rather have the other kind
def test_checkpointed_layers_are_counted_once(reentrant):
    expected, ids = plain()
    model = tiny("llama").train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert_same_bits(train(model, ids), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_around_the_whole_model_is_counted_once(reentrant):
    """Its recomputation calls the model itself again, within the backward pass."""
    expected, ids = plain()
    model = tiny("llama").train()
    calls = []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(module))
    weight = torch.zeros((), requires_grad=True)  # a reentrant checkpoint needs an input with a gradient

    def logits(ids):
        return checkpoint(lambda ids, weight: model(ids).logits, ids, weight, use_reentrant=reentrant)

    measured = train(model, ids, logits)
    handle.remove()
    assert len(calls) == 4, "the backward pass was to call the model again"
    assert_same_bits(measured, expected)
