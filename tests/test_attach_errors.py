"""What `attach` and `batch` refuse, and what a forward pass does that cannot be measured: a sentence each."""

from __future__ import annotations

import pytest
import torch
from tiny_models import EMBEDDING, HIDDEN, N_LAYERS, one_thread, random_ids, tiny  # noqa: F401

from maxact.hooks import attach

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("error", "arguments", "sentence"),
    [
        (TypeError, dict(attention_mask=[[1, 1]]), "attention_mask: list, expected a torch.Tensor"),
        (ValueError, dict(attention_mask=torch.ones(3)), r"attention_mask: shape \[3\], expected \[batch, tokens\]"),
        (TypeError, dict(sample_ids=[0, 1]), "sample_ids: list, expected an int64 tensor"),
        (TypeError, dict(sample_ids=torch.ones(2)), "sample_ids: torch.float32, expected an int64 tensor"),
        (ValueError, dict(sample_ids=torch.tensor(3)), r"sample_ids: shape \[\], expected \[batch\]"),
        (ValueError, dict(sample_ids=torch.tensor([0, -1])), r"sample_ids: \[0, -1\], expected 0 to 2\^31 - 1"),
        (ValueError, dict(sample_ids=torch.tensor([2**31])), r"sample_ids: \[2147483648\], expected 0 to 2\^31 - 1"),
    ],
)
def test_batch_refuses_what_is_not_a_mask_or_sample_ids(error, arguments, sentence):
    with attach(tiny("llama")) as probe, pytest.raises(error, match=f"^{sentence}$"):
        probe.batch(**arguments)


@pytest.mark.parametrize(
    ("named", "arguments", "sentence"),
    [
        (dict(sample_ids=torch.arange(3)), dict(input_ids=random_ids(2, 3)),
         "sample_ids: 3 of them, expected 2 for the rows of input_ids"),
        (dict(attention_mask=torch.ones(2, 2)), dict(input_ids=random_ids(2, 3)),
         r"attention_mask: shape \[2, 2\], expected \[2, 3\] like input_ids, or longer with a key-value cache"),
        (dict(attention_mask=torch.ones(1, 3)), dict(inputs_embeds=torch.ones(2, 3, HIDDEN)),
         r"attention_mask: shape \[1, 3\], expected \[2, 3\] like inputs_embeds"),
        ({}, dict(input_ids=random_ids(3)), r"input_ids: shape \[3\], expected \[batch, tokens\]"),
        ({}, {}, "input_ids: missing, as is inputs_embeds"),
    ],
)  # fmt: skip
def test_a_forward_pass_whose_tokens_cannot_be_named_is_an_error(named, arguments, sentence):
    model = tiny("llama")
    with torch.no_grad(), attach(model) as probe:
        probe.batch(**named)
        with pytest.raises(ValueError, match=f"^{sentence}"):
            model(**arguments)
        assert probe.states == {}
        model(random_ids(1, 2))  # and the next one is as if it had not been
    probe.check()
    assert probe.states["layer_0_hidden"].summary().n_tokens == 2


def test_a_site_of_another_shape_is_named_with_both_shapes():
    model = tiny("llama")
    model.model.layers[1].mlp.forward = lambda x: x[:, :2].sum(1, keepdim=True)
    with torch.no_grad(), attach(model), pytest.raises(ValueError, match=(
        r"^layer_1_mlp_output: a tensor of shape \[2, 1, 64\], expected \[2, 3, d\] or \[6, d\] like the tokens"
    )):  # fmt: skip
        model(random_ids(2, 3))


def test_a_site_without_a_tensor_is_named():
    model = tiny("llama")
    model.model.norm.forward = lambda x: {"hidden": x}
    with torch.no_grad(), attach(model), pytest.raises(
        TypeError, match="^final_layernorm: model.norm has a dict as output, expected a tensor$"
    ):  # fmt: skip
        model(random_ids(1, 3))


def test_a_tensor_that_the_kernels_refuse_is_named_with_its_site():
    model = tiny("llama", torch.float64)
    with torch.no_grad(), attach(model), pytest.raises(TypeError, match="^embedding_output: .*float64, expected bf"):
        model(random_ids(1, 3))
