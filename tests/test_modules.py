"""A run knows which modules each of its sites stands at: those that were given, or gave, what the site measured."""

import pytest
import torch
from tiny_models import FAMILIES, N_LAYERS, random_ids, tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from maxact import attach


def largest_by_module(model, ids) -> tuple[dict, dict]:
    """Largest |x| of each feature that every linear module is given, by its path; and the site's view of the same."""
    seen = {}

    def see(path, module, args):
        seen[path] = args[0].abs().flatten(0, -2).amax(0)

    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            module.register_forward_pre_hook(lambda module, args, path=path: see(path, module, args))
    with torch.no_grad(), attach(model, "gemm") as probe:
        model(ids)
    return seen, probe.run()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_linear_module_of_a_layer_was_given_what_its_site_measured(model_type):
    seen, run = largest_by_module(tiny(model_type), random_ids(2, 5))
    modules = run.provenance["modules"]
    assert modules.keys() == run.sites.keys()
    of_path = {path: site for site, at in modules.items() if at["end"] == "input" for path in at["paths"]}
    in_layers = {path for path in seen if path != "lm_head"}
    assert of_path.keys() == in_layers and len(in_layers) >= 4 * N_LAYERS
    for path, site in of_path.items():
        assert torch.equal(torch.from_numpy(run.sites[site].channel_absmax), seen[path]), path


def test_a_module_of_another_width_is_not_taken_for_one_that_is_given_the_same():
    model = tiny("llama")
    model.model.layers[1].self_attn.k_proj.in_features = 7
    paths = attach(model, "gemm").modules()["layer_1_attn_input"]["paths"]
    assert paths == ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
