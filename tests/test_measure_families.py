"""The whole job on families that are not a plain decoder with a head: it measures what a plain forward pass does."""

from __future__ import annotations

import pytest
import torch
from architectures import VOCAB, tiny
from tiny_models import one_thread  # noqa: F401
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from maxact import attach, measure
from maxact.models import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = [[7, 12, 30, 9, 41, 5, 22]]


class Spelled:
    """A tokenizer as `measure` uses one: a letter is a token of IDS."""

    bos_token_id, chat_template = None, None

    def __len__(self):
        return VOCAB

    def __call__(self, texts, **options):
        return {"input_ids": IDS}

    def decode(self, ids):
        return str(ids[0])


def absmax_of(run) -> dict[str, float]:
    return {name: run.sites[name].absmax for name in run.sites}


@pytest.mark.parametrize(
    "model_type",
    ["qwen2_5_vl", "qwen3_vl", "gemma3", "llama4", "mistral3", "qwen3_5_moe", "gemma3n_text", "deepseek_v4", "nemotron_h",
     "mamba", "falcon_h1", "bert", "modernbert", "distilbert", "t5:encoder", "bart:encoder"],
)  # fmt: skip
def test_measure_sees_what_a_forward_pass_of_the_model_shows(model_type):
    model, ids = tiny(model_type), torch.tensor(IDS)
    run = measure(model, Spelled(), ["abcdefg"], sites="gemm")
    with torch.no_grad(), attach(model, "gemm") as probe:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert absmax_of(run) == absmax_of(probe.run())
    assert all(row["fired"] == row["expected"] for row in run.provenance["coverage"])


def test_a_probe_at_the_encoder_sees_the_same_inside_the_whole_model():
    model, ids = tiny("t5"), torch.tensor(IDS)
    mask = torch.tensor([[1] * 5 + [0] * 2])
    with torch.no_grad():
        with attach(model.get_encoder(), "gemm") as alone:
            model.get_encoder()(input_ids=ids, attention_mask=mask)
        with attach(model.get_encoder(), "gemm") as inside:
            model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :3])
    for name, state in alone.states.items():
        assert torch.equal(state.buffer, inside.states[name].buffer), name


def test_measure_says_what_to_do_with_an_encoder_decoder_model():
    with pytest.raises(ValueError, match="^model: T5ForConditionalGeneration reads one text and writes another, and a c"):
        measure(tiny("t5"), Spelled(), ["abcdefg"])


@pytest.mark.parametrize("model_type", ["llama", "qwen2_5_vl", "bert"])
def test_a_directory_of_each_family_is_loaded_with_its_own_class(tmp_path, model_type):
    model = tiny(model_type)
    model.save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w3"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w3").save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu", attn="eager").model
    assert [name for name, _ in loaded.named_parameters()][:5] == [name for name, _ in model.named_parameters()][:5]
    assert measure(loaded, Spelled(), ["abcdefg"]).M == measure(model, Spelled(), ["abcdefg"]).M
