"""Loading: each kind of name gives a whole model, each fault is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers import models as backends
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from maxact.models import load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random bfloat16 llama of two layers with a tokenizer, as a directory. Copy it to spoil it."""
    directory = str(tmp_path_factory.mktemp("models") / "tiny-llama")
    torch.manual_seed(0)
    shape = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1)
    config = LlamaConfig(vocab_size=32, num_hidden_layers=2, tie_word_embeddings=True, **shape)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    vocabulary = {f"w{i}": i for i in range(30)} | {"<s>": 30, "[UNK]": 31}
    tokenizer = Tokenizer(backends.WordLevel(vocabulary, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="[UNK]").save_pretrained(directory)
    return directory


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sentence(*args, **options):
    """The message of the error that load_model raises; one line of it, whatever it came from."""
    with pytest.raises((ValueError, OSError)) as caught:
        load_model(*args, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600, text
    return text


def test_a_directory_is_loaded_whole_in_its_own_dtype(tiny):
    said = []
    loaded = load_model(tiny, device="cpu", progress=said.append)
    weights = load_file(os.path.join(tiny, "model.safetensors"))
    state = loaded.model.state_dict()
    assert weights and all(torch.equal(state[name], weight) for name, weight in weights.items())
    assert loaded.model.dtype == torch.bfloat16 and not loaded.model.training
    assert loaded.tokenizer("w7").input_ids == [7]
    assert said == ["loading tiny-llama"]


def test_provenance_is_json_without_a_path_of_this_machine(tiny):
    provenance = load_model(tiny + "/", device="cpu", attn="eager").provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert os.path.dirname(tiny) not in json.dumps(provenance)
    digest = provenance.pop("config_digest")
    assert len(digest) == 64
    weights = load_file(os.path.join(tiny, "model.safetensors"))
    assert provenance == {
        "model_id": "tiny-llama",
        "source": "directory",
        "revision": None,
        "file_sha256": None,
        "model_type": "llama",
        "dtype": "bfloat16",
        "attn": "eager",
        "n_parameters": sum(weight.numel() for weight in weights.values()),
        "tokenizer": {"class": "TokenizersBackend", "vocab_size": 32},
        "trust_remote_code": False,
    }


def test_config_digest_is_of_the_model_not_of_its_place_or_writer(tiny, copy):
    digest = load_model(tiny, device="cpu").provenance["config_digest"]
    edit_config(copy, transformers_version="4.0.0", _name_or_path="/home/somebody")
    assert load_model(copy, device="cpu").provenance["config_digest"] == digest
    assert load_model(tiny, device="cpu", dtype="float32").provenance["config_digest"] == digest
    edit_config(copy, rope_theta=7.0)
    assert load_model(copy, device="cpu").provenance["config_digest"] != digest


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_is_as_asked_for(tiny, dtype):
    loaded = load_model(tiny, device="cpu", dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.provenance["dtype"] == dtype


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_attention_is_as_asked_for(tiny, attn):
    assert load_model(tiny, device="cpu", attn=attn).provenance["attn"] == attn


def test_loading_leaves_the_verbosity_of_transformers_as_it_was(tiny):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(tiny, device="cpu")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_options_that_cannot_be_met_are_one_sentence(tiny):
    assert sentence(tiny, dtype="int8") == "dtype: 'int8', expected one of auto, bfloat16, float16, float32"
    assert sentence(tiny, device="banana").startswith("device: 'banana' cannot be used here: ")
    assert sentence(tiny, device="cuda:99").startswith("device: 'cuda:99' cannot be used here: ")
    assert sentence(tiny, device="cpu", attn="banana").startswith('attn: Specified `attn_implementation="banana"`')
    assert sentence(tiny, device="cpu", attn="a/b").startswith("attn: 'a/b' is code from the hub")
    assert sentence(tiny, revision="main").startswith("revision: 'main', but only a model from the hub has revisions")


@pytest.mark.skipif(torch.cuda.is_available(), reason="flash attention may be there")
def test_an_attention_that_is_not_installed_is_one_sentence(tiny):
    assert sentence(tiny, device="cpu", attn="flash_attention_2").startswith("attn: FlashAttention2")


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "~/gone", "a/b/c", "gone.gguf"])
def test_a_path_that_does_not_exist_is_one_sentence(name):
    assert sentence(name) == f"model: {name!r} does not exist, neither as a directory nor as a file"


def test_a_file_that_is_no_model_is_one_sentence(tiny, tmp_path):
    path = os.path.join(tiny, "config.json")
    assert sentence(path) == f"model: {path!r} is a file, expected a model directory, a .gguf file or a hub id"
    (tmp_path / "x.gguf").write_bytes(b"GGML")
    assert sentence(tmp_path / "x.gguf").endswith("x.gguf' is not a GGUF file")


def test_a_name_that_can_be_no_hub_id_is_one_sentence():
    assert sentence("no such\nmodel") == ("model: 'no such\\nmodel' is neither a directory here nor a possible hub id")


def test_a_directory_without_config_is_one_sentence(copy):
    (copy / "config.json").unlink()
    assert sentence(copy).endswith("copy' has no config.json, so it is not a model directory")


@pytest.mark.parametrize(
    "config, expected",
    [
        ("{nope", "cannot be loaded: It looks like the config file at"),
        ("[1]", "model: "),
        ("{}", "names no model_type"),
        ('{"model_type": 3}', "is not that of a model"),
        ('{"model_type": "banana"}', "is of model_type 'banana', which transformers"),
        ('{"model_type": "t5"}', "which reads one text and writes another; run it yourself with maxact.attach(model), or "),
        ('{"model_type": "vit"}', "does not know as a language model"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "cannot be loaded: "),
    ],
)
def test_a_config_of_no_known_model_is_one_sentence(copy, config, expected):
    (copy / "config.json").write_text(config)
    assert expected in sentence(copy, device="cpu")


@pytest.mark.parametrize("content", [b"", os.urandom(4096), None], ids=["empty", "random bytes", "cut in half"])
def test_a_corrupt_safetensors_is_one_sentence(copy, content):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    assert "a safetensors file of" in sentence(copy, device="cpu")
    assert "is corrupt: " in sentence(copy, device="cpu")


def test_weights_that_are_absent_are_never_made_up(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert sentence(copy, device="cpu").endswith(
        "lacks 1 of its weights; the first is model.layers.1.mlp.up_proj.weight"
    )


def test_weights_of_another_shape_are_one_sentence(copy):
    edit_config(copy, intermediate_size=48)
    assert "6 weights of" in (text := sentence(copy, device="cpu"))
    assert text.endswith("model.layers.0.mlp.down_proj.weight: shape [16, 32], expected [16, 48]")


def test_only_the_head_may_be_absent_since_it_is_not_measured(copy):
    edit_config(copy, tie_word_embeddings=False)
    said = []
    load_model(copy, device="cpu", progress=said.append)
    assert said == ["loading copy", "the checkpoint has no lm_head.weight; it is random, and not measured"]


def test_a_shard_that_is_not_there_is_one_sentence(copy):
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "gone.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "gone.safetensors" in sentence(copy, device="cpu")


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    assert sentence(copy).endswith("has no .safetensors file")
    torch.save({}, copy / "pytorch_model.bin")
    assert "has its weights only as pickle (pytorch_model.bin)" in sentence(copy)


def test_weights_wider_than_any_kernel_takes_ask_for_a_dtype(copy):
    save_file({k: w.double() for k, w in load_file(copy / "model.safetensors").items()}, copy / "model.safetensors")
    edit_config(copy, dtype="float64")
    assert sentence(copy, device="cpu") == f"model: {str(copy)!r} is stored in float64; choose one with --dtype float32"
    assert load_model(copy, device="cpu", dtype="float32").provenance["dtype"] == "float32"


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2", "gemma"])
def test_a_directory_without_tokenizer_is_one_sentence(copy, model_type):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    edit_config(copy, model_type=model_type)
    assert sentence(copy, device="cpu").endswith("has no usable tokenizer files (tokenizer.json or the like)")


def test_a_broken_tokenizer_is_one_sentence(copy):
    (copy / "tokenizer.json").write_text("{nope")
    assert "cannot be loaded: " in sentence(copy, device="cpu")


def test_code_of_the_model_runs_only_when_asked_for(copy, monkeypatch, tmp_path):
    ran = tmp_path / "ran"
    (copy / "code.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'homemade'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    edit_config(
        copy, model_type="homemade", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    )
    assert sentence(copy, device="cpu").endswith(
        "needs code of its own to be run; read that code, then add --trust-remote-code"
    )
    assert not ran.exists()
    loaded = load_model(copy, device="cpu", trust_remote_code=True)
    assert ran.exists() and loaded.provenance["trust_remote_code"] is True
    assert loaded.provenance["model_type"] == "homemade"


def in_a_process_with(tmp_path, code, **environment):
    """stdout of Python code in a new process: the hub's client reads its settings when it is imported."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS"))}
    environment = clean | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fill_hub_cache(tmp_path, tiny):
    repository = tmp_path / "hf" / "hub" / "models--someone--tiny"
    shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


LOAD = """
import json, sys, time
from maxact.models import load_model
for options in [{}, {"revision": "main"}, {"revision": "other"}]:
    try:
        print(json.dumps(load_model("someone/tiny", device="cpu", progress=print, **options).provenance))
    except OSError as error:
        print(error)
"""


@pytest.mark.parametrize(
    "environment, why",
    [({"HF_HUB_OFFLINE": "1"}, "OfflineModeIsEnabled"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "ConnectError")],
    ids=["offline", "unreachable"],
)
def test_a_cached_hub_model_loads_without_the_hub_and_its_commit_is_recorded(tmp_path, tiny, environment, why):
    fill_hub_cache(tmp_path, tiny)
    lines = in_a_process_with(tmp_path, LOAD, **environment).splitlines()
    assert lines[0] == lines[3] == f"the hub cannot be reached ({why}); taking someone/tiny from its cache"
    provenance = json.loads(lines[2])
    assert provenance == json.loads(lines[5])
    assert [provenance[key] for key in ("model_id", "source", "revision")] == ["someone/tiny", "hub", COMMIT]
    assert lines[6] == (
        "model: 'someone/tiny' is not a directory here, not in the hub's cache at revision 'other', "
        f"and the hub cannot be reached ({why})"
    )


def answer_as_the_hub(monkeypatch, result):
    import huggingface_hub

    def model_info(self, name, revision=None, timeout=None):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


def test_what_the_hub_refuses_is_one_sentence(monkeypatch):
    from types import SimpleNamespace as Namespace

    from huggingface_hub import errors

    def refusal(kind):
        return kind.__new__(kind)  # its constructor wants a response of whichever http library this version uses

    answer_as_the_hub(monkeypatch, refusal(errors.RepositoryNotFoundError))
    assert sentence("a/b").endswith("neither a directory here nor a model on the hub that this login may read")
    answer_as_the_hub(monkeypatch, refusal(errors.RevisionNotFoundError))
    assert sentence("a/b", revision="r") == "revision: 'r' does not exist for 'a/b' on the hub"
    pickled = Namespace(sha=COMMIT, siblings=[Namespace(rfilename="config.json"), Namespace(rfilename="model.bin")])
    answer_as_the_hub(monkeypatch, pickled)
    assert "only as pickle (model.bin)" in sentence("a/b")
