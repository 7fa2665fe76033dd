"""No weight and no setting of a model can change without its identity, whatever it is loaded from."""

import pytest
import torch
from tiny_models import tiny

from maxact.identity import differences, identity, weights_digest


def one_parameter(values: torch.Tensor) -> torch.nn.Module:
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(values, requires_grad=False)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.uint8])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "within another"])
def test_every_element_of_a_weight_takes_part_in_its_digest(dtype, layout):
    values = torch.ones(23, 41).to(dtype)
    values = {"contiguous": values, "transposed": values.T, "within another": values.view(-1)[5:]}[layout]
    module = one_parameter(values)
    before = weights_digest(module)
    assert before == weights_digest(one_parameter(values.clone()))
    for place in range(values.numel()):
        element = values.as_strided((1,), (1,), values.storage_offset() + place).view(torch.uint8)
        element[-1] ^= 1
        assert weights_digest(module) != before, place
        element[-1] ^= 1
    assert weights_digest(module) == before


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_weight_of_less_than_a_word_has_a_digest(size):
    assert weights_digest(one_parameter(torch.ones(size).bfloat16())) == weights_digest(
        one_parameter(torch.ones(size).bfloat16())
    )


def test_a_setting_that_no_weight_shows_is_a_difference_but_the_place_is_none():
    one, other = tiny("llama"), tiny("llama", rope_theta=5.0)
    one.config._name_or_path = "/somewhere"
    of, of_other = (identity(model, "", [], {}) for model in (one, other))
    assert of["weights"] == of_other["weights"] and of == identity(tiny("llama"), "", [], {})
    assert differences(of, of_other).startswith("config is '")
